"""Only the difference is embedded: nights of a shop whose photos come and go, trials, and what a plan foresees."""

import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import AT_ONCE, SEARCH_ONLY
from PIL import Image

from jobs import embed
from samestyle.tables.warehouse import Warehouse


@dataclass
class PhotoServer:
    """A real server on the loopback. `answers`: path -> (status, body)."""

    url: str
    answers: dict[str, tuple[int, bytes]] = field(default_factory=dict)


@pytest.fixture
def photos() -> Iterator[PhotoServer]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = served.answers[self.path]
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    served = PhotoServer(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield served
    server.shutdown()
    thread.join()


@pytest.fixture
def jpeg(tmp_path):
    Image.effect_noise((64, 64), 90).convert("RGB").save(tmp_path / "noise.jpg")
    return (tmp_path / "noise.jpg").read_bytes()


def test_nights_with_photos_that_come_and_go_in_parquet_tables_that_keep_what_is_read(
    spark, run_job, photos, jpeg, tmp_path
):
    good, down, broken = (200, jpeg), (503, b"try again"), (200, jpeg[:200])
    titles = [{"item_id": f"t{n}", "title": f"plain mug number {n}"} for n in range(30)]
    root, words = tmp_path / "out", [f"catalogue.path={tmp_path / 'catalogue.parquet'}", "images.retries=0"]
    words += ["images.allow_private_networks=true", "embed.backoff_hours=0", "tables.format=parquet", *SEARCH_ONLY]

    def offer(name, version=None):
        return {"item_id": name, "title": f"mug {name}", "image_uri": f"{photos.url}/{name}", "image_version": version}

    def night(rows, job="nightly", **answers):
        photos.answers = {f"/{name}": answer for name, answer in answers.items()}
        pq.write_table(pa.Table.from_pylist([*rows, *titles]), tmp_path / "catalogue.parquet")
        ended = run_job(job, root, *words)
        assert ended.code == 0, ended.text
        record = ended.record("embed")
        items = Warehouse(spark, str(root), "parquet").items().read(record["items_version"])
        states = {r["item_id"]: (r["state"], r["reason"]) for r in items.where("image_uri is not null").collect()}
        return states, record["counts"]["deleted"], record["attempted"], record["contents_embedded"]

    changing, slow, gone, ill = offer("changing", "1"), offer("slow", "1"), offer("gone", "1"), offer("ill")
    found = night([changing, slow, gone, ill], changing=good, slow=down, gone=good, ill=broken)
    states = {"changing": ("fresh", None), "slow": ("rejected", "http_status"), "gone": ("fresh", None)}
    assert found == (states | {"ill": ("degraded", "truncated")}, 0, 34, 33)

    # The failed one is tried again, the broken one too, as its address has no version; a changed photo cannot be had.
    changed = offer("changing", "2")
    found = night([changed, slow, ill], "embed", changing=down, slow=good, ill=good)
    assert found == (
        {"changing": ("stale", "http_status"), "slow": ("fresh", None), "ill": ("fresh", None)},
        1,
        3,
        2,
    )

    found = night([changed, slow, gone, ill], "embed", changing=good)
    reused = dict.fromkeys(("slow", "gone", "ill"), ("reused", None))
    assert found == ({"changing": ("fresh", None), **reused}, 0, 1, 1)

    # Of three versions of the items one serves a release, one is the latest; of the embeddings a killed write is left.
    tables = root / "tables"
    served, _, latest = sorted((tables / "items").iterdir())
    (tables / "embeddings" / "part-torn").mkdir()
    ended = run_job("maintain", root, *words, *AT_ONCE)
    assert ended.record("maintain")["removed_files"] == {"embeddings": 1, "items": 1}, ended.text
    assert sorted((tables / "items").iterdir()) == [served, latest]
    assert not (tables / "embeddings" / "part-torn").exists()


def test_a_catalogue_that_is_overwritten_while_it_is_read_ends_the_run(run_job, tmp_path, monkeypatch):
    path = tmp_path / "catalogue.parquet"

    def write(count):
        rows = [{"item_id": f"i{n}", "title": f"mug {n}"} for n in range(count)]
        pq.write_table(pa.Table.from_pylist(rows), path)

    def overwriting(rows, baseline):
        facts = embed_facts(rows, baseline)
        write(41)
        return facts

    embed_facts = embed.catalogue_facts
    monkeypatch.setattr(embed, "catalogue_facts", overwriting)
    write(40)
    ended = run_job("embed", tmp_path / "out", f"catalogue.path={path}")
    assert ended.code == 5
    assert f"the catalogue {path} was overwritten while it was read: it was at files-" in ended.text
    assert not (tmp_path / "out" / "tables").exists()


def files_of(root):
    found = [path for name in ("tables", "store") for path in (root / name).rglob("*") if path.is_file()]
    return {path: path.read_bytes() for path in found}


def test_a_trial_on_a_sample_leaves_the_real_tables_and_releases_alone(spark, run_job, copied):
    before = files_of(copied)
    ended = run_job("embed", copied, "--sample", "0.3")
    assert ended.code == 0, ended.text
    assert f"TRIAL on 0.3 of the items, everything below {copied / 'samples' / '0.3'}" in ended.text
    assert files_of(copied) == before
    sample = Warehouse(spark, str(copied / "samples" / "0.3"), "delta")
    drawn = {row["item_id"] for row in sample.items().read().collect()}
    everything = Warehouse(spark, str(copied), "delta").items().read()
    assert drawn == {r["item_id"] for r in everything.where("pmod(xxhash64(item_id), 1000000) < 300000").collect()}
    assert 0 < len(drawn) < 60
    assert run_job("embed", copied, "--sample", "1.5").code == 2


def test_a_plan_says_how_long_and_how_dear_it_will_be_once_it_can_know(run_job, night, copied, tmp_path):
    plan = run_job("nightly", copied, "demo.day=2", "embed.price_per_hour=36", "--dry-run")
    assert plan.code == 0, plan.text
    contents, fetches = (int(number) for number in re.findall(r"(\d+) (?:contents, in|photos to)", plan.text))
    assert 0 < fetches <= contents
    rate, run, cost = re.search(r"at (\S+) contents/s, as in run (\S+), costs (\S+) at 36.00", plan.text).groups()
    assert run == night.folder.name
    assert float(cost) == pytest.approx(contents / float(rate) * 36 / 3600, abs=0.02)
    other = run_job("nightly", tmp_path / "new", "--dry-run")
    assert "time unknown: no earlier run below paths.root has embedded with this encoder" in other.text
