"""The engine in Spark: as a column for notebooks and SQL, and as the nights use it."""

import io
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from pyspark import TaskContext
from pyspark.sql import functions as F

from samestyle.catalogue.fetch import FetchPolicy
from samestyle.catalogue.images import DecodeLimits, decode_image
from samestyle.encoder.pipeline import STAGES, Pipeline
from samestyle.encoder.registry import CURRENT, EncoderFolder, EncoderReference, load_cached, point_to
from samestyle.encoder.sources import default_kind
from samestyle.release.store import open_store
from samestyle.settings import Settings, load_settings
from samestyle.tables.counter import Counter
from samestyle.tables.job import exported_encoder
from samestyle.tables.schemas import ATTEMPT, CONTENT
from samestyle.tables.waves import encoder_in_use
from udfs.embed import column_udf, embed_column, embed_udf, task_decoder

ROOT = Path(__file__).resolve().parents[2]
VIEWS = ("image", "text", "fused")


@pytest.fixture(scope="module")
def exported() -> EncoderFolder:
    """The encoder that set-up exported."""
    return EncoderFolder(ROOT / ".cache" / "encoders" / default_kind())


@pytest.fixture
def pipeline(tmp_path: Path) -> Pipeline:
    return Pipeline(FetchPolicy(("file",), (str(tmp_path),), str(tmp_path)), DecodeLimits(), batch_size=4)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    folder = ROOT / ".cache" / "encoders" / default_kind()
    return load_settings("dev", None, [f"images.roots=[{tmp_path}]", f"encoder.path={folder}"])


def jpeg(shade: int) -> bytes:
    body = io.BytesIO()
    Image.new("RGB", (60, 40), (shade, 255 - shade, 30)).save(body, "JPEG")
    return body.getvalue()


def test_a_column_of_titles_and_photos_becomes_a_struct_of_views(spark, exported, settings, tmp_path):
    (tmp_path / "photo.jpg").write_bytes(jpeg(90))
    uri = f"file://{tmp_path}/photo.jpg"
    rows = [("red  mug ", uri), (None, uri), ("blue mug", None), ("lamp", f"{uri}.gone"), (None, "file:///etc/passwd")]
    shop = spark.createDataFrame(
        [(i, *row) for i, row in enumerate([*rows, (None, None)])], "i int, t string, p string"
    )
    found = {
        r["i"]: r["e"]
        for r in shop.select("i", embed_column(F.col("t"), F.col("p"), settings=settings).alias("e")).collect()
    }
    assert {i: (e["outcome"], e["reason"]) for i, e in found.items()} == {
        0: ("embedded", None),
        1: ("embedded", None),
        2: ("embedded", None),
        3: ("degraded", "not_found"),
        4: ("rejected", "outside_roots"),
        5: ("rejected", "nothing_to_embed"),
    }
    present = {i: [view for view in VIEWS if e[f"{view}_vector"] is not None] for i, e in found.items()}
    assert present == {0: [*VIEWS], 1: ["image", "fused"], 2: ["text", "fused"], 3: ["text", "fused"], 4: [], 5: []}
    pixels = decode_image(jpeg(90), DecodeLimits())
    expected = load_cached(str(exported.folder)).encode(["red mug"], [pixels])
    for view in VIEWS:
        np.testing.assert_allclose(found[0][f"{view}_vector"], expected[view][0], atol=1e-5)


def test_rows_keep_their_order_across_batches(spark, exported, pipeline):
    titles = spark.range(700).select("id", F.concat(F.lit("mug "), F.col("id")).alias("title"))
    photo = F.when(F.col("id") % 50 == 0, F.lit(b"no photo"))
    embed = column_udf(exported, pipeline)
    rows = (
        titles.repartition(2).select("id", embed("title", photo).alias("e")).select("id", "e.reason", "e.text_vector")
    )
    found = {r["id"]: r for r in rows.collect()}
    assert {i for i, r in found.items() if r["reason"]} == set(range(0, 700, 50))
    chosen = [0, 3, 255, 256, 257, 511, 512, 699]
    expected = load_cached(str(exported.folder)).encode([f"mug {i}" for i in chosen], [None] * len(chosen))["text"]
    np.testing.assert_allclose([found[i]["text_vector"] for i in chosen], expected, atol=1e-5)


def test_it_is_a_function_in_sql_too(spark, exported, pipeline):
    spark.createDataFrame([("mug", jpeg(20)), ("mug", b"")], "title string, photo binary").createOrReplaceTempView(
        "shop"
    )
    spark.udf.register("embed", column_udf(exported, pipeline))
    rows = (
        spark.sql("select embed(title, photo) as e from shop").select("e.outcome", F.size("e.fused_vector")).collect()
    )
    assert [tuple(row) for row in rows] == [("embedded", 256), ("embedded", 256)]


def test_the_nights_take_every_row_whatever_it_holds(spark, exported, pipeline):
    """A string of Spark's may hold bytes that are no UTF-8; a batch of rows may be empty; counts reach the driver."""
    counter = Counter(spark.sparkContext, STAGES)
    told = [("0", "mug", None, None), ("1", None, None, b"/\xff/"), ("2", None, jpeg(50), None)]
    rows = spark.createDataFrame(told, "content_key string, title string, image binary, raw binary").repartition(5)
    rows = rows.withColumn("image_uri", F.col("raw").cast("string"))
    for name in ("title_hash", "image_key", "known_digest"):
        rows = rows.withColumn(name, F.lit(None).cast("string"))
    embed = embed_udf(exported, replace(pipeline, fetches=2), counter.add)
    found = {r["content_key"]: r for r in rows.select(*CONTENT).mapInArrow(embed, ATTEMPT).collect()}
    assert {key: (r["outcome"], r["reason"]) for key, r in found.items()} == {
        "0": ("embedded", None),
        "1": ("rejected", "bad_uri"),
        "2": ("embedded", None),
    }
    assert found["0"]["image_vector"] is None
    assert len(found["2"]["image_vector"]) == len(found["2"]["fused_vector"]) == 256
    assert counter.values() == (3, 1)
    assert counter.limit() in STAGES


def test_the_encoder_in_use_is_the_store_s_current_one_or_the_exported_one(exported, tmp_path, monkeypatch):
    monkeypatch.setenv("SAMESTYLE_HOME", str(ROOT))
    chosen = load_settings("dev", None, [f"encoder.path={exported.folder}", f"paths.root={tmp_path}"])
    assert encoder_in_use(chosen) == exported
    settings = load_settings("dev", None, [f"paths.root={tmp_path}"])
    assert encoder_in_use(settings) == EncoderFolder(exported_encoder(settings))
    store = open_store(f"{tmp_path}/store")
    store.swap(CURRENT, None, point_to("0123"))
    current = encoder_in_use(settings)
    assert isinstance(current, EncoderReference)
    assert (current.store.uri, current.encoder_id) == (store.uri, "0123")
    elsewhere = open_store(f"{tmp_path}/elsewhere")
    elsewhere.swap(CURRENT, None, point_to("4567"))
    for words in ([f"paths.root={tmp_path}"], []):
        moved = encoder_in_use(load_settings("dev", None, [*words, f"release.store={elsewhere.uri}"]))
        assert (moved.store.uri, moved.encoder_id) == (elsewhere.uri, "4567")


def test_a_retried_task_decodes_in_a_child_process(pipeline, monkeypatch):
    for attempt, supervised in ((0, False), (1, True)):
        monkeypatch.setattr(TaskContext, "get", lambda attempt=attempt: SimpleNamespace(attemptNumber=lambda: attempt))
        with task_decoder(pipeline, 32) as decode:
            assert (decode is not None) == supervised
            if decode:
                np.testing.assert_array_equal(decode(jpeg(7)), decode_image(jpeg(7), DecodeLimits(), 32))
