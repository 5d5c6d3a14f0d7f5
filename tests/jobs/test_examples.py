"""The settings files of conf/examples, on small samples of the shops that they are for, in every form of a source."""

import hashlib
import json
import random
import re
import runpy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
import yaml
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from samestyle.settings import load_settings
from samestyle.tables.warehouse import Warehouse
from tests.jobs.conftest import ROOT, Ended, start_job

EXAMPLES = ("magento_luma", "grocery_store", "emoji_multivendor")
SEED = 7
ROWS = 60  # at least; the last style group is taken whole
# Of each shop a sample is embedded each time, in another form; the nights go on as those of the demo do.
NIGHTS = [pytest.param(name, marks=pytest.mark.soak) for name in EXAMPLES]


@dataclass(frozen=True)
class ExampleNight:
    """A finished nightly on a sample of the shop `name`."""

    name: str
    sample: pa.Table
    ended: Ended


def settings_file(name: str) -> Path:
    return ROOT / "conf" / "examples" / f"{name}.yaml"


def sample_of(data_folder: Path, name: str) -> pa.Table:
    """Whole style groups of the shop, drawn with a seed, until there are ROWS rows."""
    table = pq.read_table(data_folder / f"{name}.parquet")
    style = load_settings("dev", settings_file(name)).catalogue.columns.style_group
    rows_of: dict[str, list[int]] = {}
    for row, group in enumerate(table[style].to_pylist()):
        rows_of.setdefault(group, []).append(row)
    chosen: list[int] = []
    for group in random.Random(SEED).sample(sorted(rows_of), len(rows_of)):
        if len(chosen) < ROWS:
            chosen += rows_of[group]
    return table.take(sorted(chosen))


def run_example(job: str, name: str, root: Path, *words: str) -> Ended:
    return start_job(job, root, "--settings", str(settings_file(name)), *words, small=["evaluation.queries=100"])


@pytest.fixture(scope="module", params=NIGHTS)
def example(request, spark_session, data_folder, tmp_path_factory) -> ExampleNight:
    """Each shop once, as Parquet with the photos inside: the form that its settings file is written for."""
    folder = tmp_path_factory.mktemp(request.param)
    sample = sample_of(data_folder, request.param)
    pq.write_table(sample, folder / "catalogue.parquet")
    ended = run_example("nightly", request.param, folder / "out", f"catalogue.path={folder / 'catalogue.parquet'}")
    assert ended.code == 0, ended.text
    return ExampleNight(request.param, sample, ended)


def warehouse(spark, ended: Ended) -> Warehouse:
    return Warehouse(spark, str(ended.root), "delta")


def vectors(spark, ended: Ended) -> list[Any]:
    return warehouse(spark, ended).embeddings.read().where("outcome = 'embedded'").collect()


def assert_all_rows_are_fresh(ended: Ended, rows: int) -> None:
    states = ("reused", "stale", "degraded", "rejected", "deleted")
    assert ended.summary["counts"] == {"read": rows, "fresh": rows} | dict.fromkeys(states, 0)


def neighbours(spark, ended: Ended) -> DataFrame:
    """Each listed pair with both suppliers; an inner join, so that a neighbour that is no item would be missing."""
    items = warehouse(spark, ended).items().read().select("item_id", "supplier_id")
    other = items.select(F.col("item_id").alias("neighbour_id"), F.col("supplier_id").alias("other_supplier"))
    return warehouse(spark, ended).neighbours.read().join(items, "item_id").join(other, "neighbour_id")


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_column_that_the_settings_name_is_in_the_data(data_folder, name):
    catalogue = load_settings("dev", settings_file(name)).catalogue
    columns = {column for column in catalogue.columns.model_dump().values() if column is not None}
    assert {"item_id", "title", "image"} <= columns
    assert columns | set(catalogue.attributes) <= set(pq.read_schema(data_folder / f"{name}.parquet").names)


@pytest.mark.parametrize("name", EXAMPLES)
def test_each_file_and_the_readme_give_the_command_that_runs_it(name):
    command = f"nightly --env dev --settings conf/examples/{name}.yaml catalogue.path=/path/to/{name}.parquet"
    comment = settings_file(name).read_text().partition("\ncatalogue:")[0]
    for text in (comment, (ROOT / "conf" / "examples" / "README.md").read_text()):
        assert f"./spark-submit.sh {command}" in re.sub(r"[\s#\\]+", " ", text)


def test_each_file_writes_to_a_folder_of_its_own():
    """Two catalogues below one paths.root: the second would be a shop in which every served item is missing."""
    roots = [yaml.safe_load(settings_file(name).read_text())["paths"]["root"] for name in EXAMPLES]
    assert len(set(roots)) == len(EXAMPLES)


def test_every_row_is_accounted_for(example):
    assert_all_rows_are_fresh(example.ended, example.sample.num_rows)
    assert example.ended.summary["items"]["search"] == example.sample.num_rows
    contents = {(row["title"], row["image"]) for row in example.sample.select(["title", "image"]).to_pylist()}
    assert example.ended.summary["contents_embedded"] == len(contents)


def test_photos_of_a_binary_column_are_embedded(spark, example):
    rows = vectors(spark, example.ended)
    photos = {hashlib.sha256(photo).hexdigest() for photo in example.sample["image"].to_pylist()}
    assert {row["image_digest"] for row in rows} == photos
    for row in rows:
        assert [len(row[f"{view}_vector"]) for view in ("image", "text", "fused")] == [256, 256, 256]


def test_same_style_is_measured_by_photo_and_by_both(example):
    measured = example.ended.summary["same_style_r1"]
    assert set(measured) == {"image", "fused"}
    assert all(0 < value <= 1 for value in measured.values())
    assert f"same-style R@1 image {measured['image']:.3f} fused {measured['fused']:.3f}" in example.ended.text


def test_neighbours_are_items_and_keep_to_their_suppliers(spark, example):
    rows = neighbours(spark, example.ended).where("rank <= 10").collect()
    assert len(rows) == sum(example.ended.record("neighbours")["rows"].values()) > 0
    for row in rows:
        assert row["item_id"] != row["neighbour_id"]
        if row["band"] != "similar":
            assert (row["band"] == "same_style") == (row["supplier_id"] != row["other_supplier"])
    has_same_style = any(row["band"] == "same_style" for row in rows)
    assert has_same_style == (len(set(example.sample["supplier_id"].to_pylist())) > 1)


def test_the_homepage_shows_what_its_filter_lets_through(example):
    shown = {
        "magento_luma": lambda row: row["category_l1"] in ("Men", "Women"),
        "grocery_store": lambda row: row["supplier_id"] == "webshop",
        "emoji_multivendor": lambda row: True,
    }[example.name]
    assert example.ended.summary["items"]["homepage"] == sum(map(shown, example.sample.to_pylist()))
    assert example.ended.summary["notes"] == [
        "module history skipped: it needs a click log, and clicks.path and clicks.table are not set"
    ]


def test_the_shop_that_docs_catalogue_begins_with_is_read_as_its_settings_say(spark, tmp_path):
    """The night after this plan is one of the commands of that page, which `make soak` runs."""
    examples = ROOT / "docs" / "examples"
    runpy.run_path(str(examples / "own_shop.py"))["main"](tmp_path)
    words = ["--settings", str(examples / "own_shop.yaml"), f"catalogue.path={tmp_path / 'products.json'}", "--dry-run"]
    ended = start_job("nightly", tmp_path / "out", "--env", "dev", *words, small=[])
    assert ended.code == 0, ended.text
    assert "120 rows, 0 repeat an item_id" in ended.text
    assert int(re.search(r"(\d+) photos to fetch", ended.text)[1]) > 100


def write_json(folder: Path, sample: pa.Table) -> Path:
    """One object a line; `image` says where the photo lies, seen from the catalogue's folder."""
    (folder / "photos").mkdir()
    lines = []
    for number, row in enumerate(sample.to_pylist()):
        (folder / "photos" / f"{number}.jpg").write_bytes(row["image"])
        lines.append(json.dumps(row | {"image": f"photos/{number}.jpg"}))
    (folder / "catalogue.json").write_text("\n".join(lines))
    return folder / "catalogue.json"


@pytest.mark.soak  # the next test plans it, and that of docs/catalogue.md
def test_json_with_photos_by_address(spark, data_folder, tmp_path):
    sample = sample_of(data_folder, "magento_luma")
    words = [f"catalogue.path={write_json(tmp_path, sample)}", "catalogue.format=json"]
    ended = run_example("embed", "magento_luma", tmp_path / "out", *words, "catalogue.columns.image_uri=image")
    assert ended.code == 0, ended.text
    assert_all_rows_are_fresh(ended, sample.num_rows)
    rows = vectors(spark, ended)
    assert {row["image_digest"] for row in rows} == {hashlib.sha256(p).hexdigest() for p in sample["image"].to_pylist()}
    assert all(row["image_vector"] for row in rows)


def test_addresses_in_the_place_of_photos_are_an_error_that_names_the_setting(data_folder, tmp_path, spark):
    path = write_json(tmp_path, sample_of(data_folder, "magento_luma"))
    ended = run_example("embed", "magento_luma", tmp_path / "out", f"catalogue.path={path}", "catalogue.format=json")
    assert ended.code == 2
    assert "column image is string and catalogue.columns.image has to be binary" in ended.text
    assert "set catalogue.columns.image_uri=image" in ended.text
    assert not (tmp_path / "out" / "tables" / "embeddings").exists()


@pytest.mark.soak  # planned below
def test_csv_with_titles_only(spark, data_folder, tmp_path):
    sample = sample_of(data_folder, "emoji_multivendor").drop_columns(["image"])
    pyarrow.csv.write_csv(sample, tmp_path / "catalogue.csv")
    words = [f"catalogue.path={tmp_path / 'catalogue.csv'}", "catalogue.format=csv", "catalogue.columns.image="]
    ended = run_example("embed", "emoji_multivendor", tmp_path / "out", *words)
    assert ended.code == 0, ended.text
    assert_all_rows_are_fresh(ended, sample.num_rows)
    assert ended.summary["contents_embedded"] == len(set(sample["title"].to_pylist()))
    for row in vectors(spark, ended):
        assert row["image_vector"] is None
        assert row["fused_vector"] == row["text_vector"]


def test_a_named_table_with_columns_of_other_names(spark, data_folder, tmp_path):
    sample = sample_of(data_folder, "grocery_store")
    theirs = {"item_id": "sku", "title": "name", "image": "photo", "supplier_id": "seller", "category": "shelf"}
    named = sample.rename_columns(theirs | {"group_id": "product"})
    pq.write_table(named, tmp_path / "sample.parquet")
    spark.sql(f"create table offers using delta as select * from parquet.`{tmp_path / 'sample.parquet'}`")
    words = [f"catalogue.columns.{ours}={column}" for ours, column in theirs.items()]
    words.append("catalogue.columns.style_group=product")
    ended = run_example("embed", "grocery_store", tmp_path / "out", "catalogue.table=offers", *words)
    assert ended.code == 0, ended.text
    assert ended.summary["source_version"] == "delta-0"
    assert_all_rows_are_fresh(ended, sample.num_rows)
    assert all(row["image_vector"] for row in vectors(spark, ended))
    columns = ("item_id", "supplier_id", "category", "style_group")
    items = warehouse(spark, ended).items().read().select(*columns).collect()
    expected = sample.select(["item_id", "supplier_id", "category", "group_id"]).to_pylist()
    assert {tuple(row) for row in items} == {tuple(row.values()) for row in expected}


@pytest.mark.soak  # planned below; test_nightly.py has unchanged contents
def test_a_folder_of_delta(spark, data_folder, tmp_path):
    """A later commit of the table is a later version, and what has not changed is not embedded again."""
    sample = sample_of(data_folder, "magento_luma")
    pq.write_table(sample, tmp_path / "sample.parquet")
    rows, folder = spark.read.parquet(str(tmp_path / "sample.parquet")), str(tmp_path / "offers")
    rows.where(F.col("item_id") != sample["item_id"][0].as_py()).write.format("delta").save(folder)
    words = [f"catalogue.path={folder}", "catalogue.format=delta"]
    ended = run_example("embed", "magento_luma", tmp_path / "out", *words)
    assert ended.code == 0, ended.text
    assert ended.summary["source_version"] == "delta-0"
    assert_all_rows_are_fresh(ended, sample.num_rows - 1)
    rows.where(F.col("item_id") == sample["item_id"][0].as_py()).write.format("delta").mode("append").save(folder)
    again = run_example("embed", "magento_luma", tmp_path / "out", *words)
    assert again.code == 0, again.text
    assert again.summary["source_version"] == "delta-1"
    assert (again.summary["counts"]["fresh"], again.summary["counts"]["reused"]) == (1, sample.num_rows - 1)
    assert all(row["image_vector"] for row in vectors(spark, again))


def write_csv(folder: Path, sample: pa.Table) -> Path:
    pyarrow.csv.write_csv(sample.drop_columns(["image"]), folder / "catalogue.csv")
    return folder / "catalogue.csv"


def write_delta(folder: Path, sample: pa.Table) -> Path:
    pq.write_table(sample, folder / "sample.parquet")
    rows = SparkSession.active().read.parquet(str(folder / "sample.parquet"))
    rows.write.format("delta").save(str(folder / "offers"))
    return folder / "offers"


@pytest.mark.parametrize(
    ("form", "name", "write", "word", "version"),
    [
        ("json", "magento_luma", write_json, "catalogue.columns.image_uri=image", "files-"),
        ("csv", "emoji_multivendor", write_csv, "catalogue.columns.image=", "files-"),
        ("delta", "magento_luma", write_delta, "catalogue.columns.image=image", "delta-0"),
    ],
)
def test_every_form_of_a_source_is_planned(spark, data_folder, tmp_path, form, name, write, word, version):
    sample = sample_of(data_folder, name)
    path = write(tmp_path, sample)
    words = [f"catalogue.path={path}", f"catalogue.format={form}", word, "--dry-run"]
    ended = run_example("nightly", name, tmp_path / "out", *words)
    assert ended.code == 0, ended.text
    assert f"{path} at {version}" in ended.text
    assert f"{sample.num_rows} rows, 0 repeat an item_id" in ended.text
    titles, photos = sample["title"].to_pylist(), sample["image"].to_pylist()
    # Each line of JSON names a file of its own; the others hold the bytes, or none.
    contents = {"json": sample.num_rows, "csv": len(set(titles)), "delta": len(set(zip(titles, photos, strict=True)))}
    assert f"{contents[form]} contents, in waves of" in ended.text
    assert f" {sample.num_rows if form == 'json' else 0} photos to fetch" in ended.text
