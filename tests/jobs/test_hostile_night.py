"""A catalogue of hostile rows: no failed task, each row in one state with the right reason.

`make test` embeds a few rows of each kind, `make soak` runs a whole night over the full count.
"""

from collections import Counter
from functools import partial

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hostile import MAX_BYTES, NEVER, hostile_site, images, saved, titles, uris
from PIL import Image

from samestyle.catalogue.fetch import FetchPolicy
from samestyle.catalogue.images import DecodeLimits
from samestyle.catalogue.titles import normalise_title
from samestyle.encoder.pipeline import Pipeline
from samestyle.encoder.registry import EncoderFolder
from samestyle.encoder.sources import default_kind
from samestyle.tables.schemas import ATTEMPT, CONTENT
from samestyle.tables.warehouse import Warehouse
from tests.jobs.conftest import ROOT

ENCODER = ROOT / ".cache" / "encoders" / default_kind()

# What is drawn is worse than any catalogue, and a night's limits are not what is tested here.
LENIENT = [
    "images.allow_private_networks=true",
    f"images.max_bytes={MAX_BYTES}",
    "images.timeout_s=3",
    "images.deadline_s=3",
    "images.retries=0",
    "embed.transient_max=1",
    *(f"gate.{limit}=1" for limit in ("rejected_max", "degraded_max", "stale_max")),
]
FIELDS = ("item_id", "title", "image", "image_uri", "supplier_id", "category")
LONE = "\ud800"  # half a character: no UTF-8 can hold it, and files hold it all the same


def offer(**fields: object) -> dict:
    return dict.fromkeys(FIELDS) | fields


def as_written(rows: list[dict]) -> pa.Table:
    """As careless writers do it: the bytes of a string column are whatever they are."""
    columns = {}
    for name in FIELDS:
        values = [row[name].encode(errors="surrogatepass") if isinstance(row[name], str) else row[name] for row in rows]
        column = pa.array(values, pa.binary())
        columns[name] = column if name == "image" else column.view(pa.string())
    return pa.table(columns)


def hostile_rows(scale: int, seed: int, site: str) -> tuple[list[dict], dict[str, frozenset[str | None]]]:
    """Rows, and item ids with the reasons that they may end with."""
    rows, expected = [], {}
    for number, image in enumerate(images(scale * 2, seed)):
        # No bytes in a binary column are no photo, and with no title either there is nothing to embed.
        rows.append(offer(item_id=f"image-{number}", image=image.value))
        expected[f"image-{number}"] = image.reasons if image.value else frozenset({"nothing_to_embed"})
    for number, uri in enumerate(uris(scale, seed, site, NEVER)):
        rows.append(offer(item_id=f"uri-{number}", image_uri=uri.value))
        blank = not uri.value.strip(" ")
        expected[f"uri-{number}"] = frozenset({"nothing_to_embed"}) if blank else uri.reasons
    for number, title in enumerate(titles(scale, seed)):
        rows.append(offer(item_id=f"title-{number}", title=title))
        expected[f"title-{number}"] = frozenset({None if normalise_title(title) else "nothing_to_embed"})
    return rows, expected


def ordinary_rows(count: int) -> tuple[list[dict], dict[str, frozenset[str | None]]]:
    rows = [offer(item_id=f"mug-{n}", title=f"mug number {n}", supplier_id=f"{LONE}{n % 3}") for n in range(count)]
    rows[0]["category"] = f"kitchen{LONE}/mugs"
    return rows, {row["item_id"]: frozenset({None}) for row in rows}


@pytest.mark.parametrize(
    ("job", "scale", "seed"),
    [pytest.param("embed", 32, 1, id="share"), pytest.param("nightly", 500, 2, id="all", marks=pytest.mark.soak)],
)
def test_every_row_ends_in_one_state_for_the_right_reason(spark, run_job, tmp_path, job, scale, seed):
    with hostile_site() as port:
        rows, expected = hostile_rows(scale, seed, f"http://127.0.0.1:{port}")
        more, fine = ordinary_rows(30)
        expected |= fine
        pq.write_table(as_written(rows + more), tmp_path / "catalogue.parquet")
        ended = run_job(job, tmp_path / "out", f"catalogue.path={tmp_path / 'catalogue.parquet'}", *LENIENT)
    assert ended.code == 0, ended.text[-3000:]
    items = Warehouse(spark, str(tmp_path / "out"), "delta").items().read().toArrow()
    items.validate(full=True)  # all text is UTF-8
    found = {row["item_id"]: (row["state"], row["reason"]) for row in items.to_pylist()}
    assert found.keys() == expected.keys()
    wrong = {
        item: (state, reason, expected[item])
        for item, (state, reason) in found.items()
        if reason not in expected[item] or state != ("rejected" if reason else "fresh")
    }
    assert wrong == {}
    print(f"\n{len(found)} rows: {dict(Counter(reason for _, reason in found.values()).most_common())}")


def test_a_decoder_that_crashes_costs_its_own_row(spark, tmp_path):
    """The worker dies of it; the second attempt of its task decodes in a child process, and names the row."""
    from udfs.embed import embed_udf

    pipeline = Pipeline(FetchPolicy(), DecodeLimits(), batch_size=4)
    embed = embed_udf(EncoderFolder(ENCODER), pipeline, lambda *_: None)

    def with_crashing_decoder(batches):
        """In the worker: pictures are decoded by a function that a segment violation ends, here and in the child."""
        import samestyle.encoder.pipeline as engine
        import udfs.embed as room
        from tests.core.hostile_decoders import obedient

        safe, supervised = engine.decode_image, room.supervised_decoder
        engine.decode_image = obedient
        room.supervised_decoder = partial(supervised, function="tests.core.hostile_decoders:obedient")
        try:
            yield from embed(batches)
        finally:
            engine.decode_image, room.supervised_decoder = safe, supervised

    photo = saved(Image.new("RGB", (40, 30), "red"), "PNG")
    photos = {"good": photo, "bad": b"segfault", "page": b"<html>", "fine": photo}
    rows = [dict.fromkeys(CONTENT) | {"content_key": key, "image": image} for key, image in photos.items()]
    kinds = ", ".join(f"{name} {'binary' if name == 'image' else 'string'}" for name in CONTENT)
    frame = spark.createDataFrame(rows, kinds).coalesce(1).mapInArrow(with_crashing_decoder, ATTEMPT)
    found = {r["content_key"]: (r["outcome"], r["reason"]) for r in frame.collect()}
    assert found == {
        "good": ("embedded", None),
        "bad": ("rejected", "crashes_decoder"),
        "page": ("rejected", "not_an_image"),
        "fine": ("embedded", None),
    }
