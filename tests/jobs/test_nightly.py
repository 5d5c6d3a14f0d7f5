"""A whole night on a small demo catalogue, and the nights after it."""

import json
import re

import numpy as np
import pyarrow.parquet as pq
import pyspark
import pytest
from jsonschema import Draft202012Validator
from pages import blocks
from pyspark.sql import functions as F

from samestyle.demo.days import day_changes
from samestyle.index.exact import exact_search
from samestyle.release.publish import current_release, verify_release
from samestyle.release.schema import manifest_schema
from samestyle.release.store import open_store
from samestyle.serving.cache import Cache
from samestyle.serving.display import Display
from samestyle.serving.searcher import open_release
from samestyle.tables.warehouse import Warehouse


@pytest.fixture
def tables(spark, night):
    return Warehouse(spark, str(night.root), "delta")


@pytest.fixture(scope="session")
def release(night):
    return current_release(open_store(night.root / "store"))[1]


def test_the_line_to_grep_says_what_the_summary_says(night):
    lines = [line for line in night.text.splitlines() if "published release" in line]
    summary = night.summary
    counts = summary["counts"]
    assert len(lines) == 1
    assert lines[0].startswith(
        f"samestyle: published release {summary['release_id']}: {summary['items']['search']} items"
    )
    assert (
        f"{summary['contents_embedded']} embedded, {counts['reused']} reused, {counts['rejected']} rejected" in lines[0]
    )
    assert "recall@10" in lines[0]
    assert "same-style R@1 image" in lines[0]


def test_demo_stands_in_the_first_and_the_last_line(night):
    lines = [line for line in night.text.splitlines() if line.strip()]
    assert "DEMO" in lines[0]
    assert "DEMO" in lines[-1]


def test_every_row_of_the_catalogue_is_accounted_for(night, tables):
    items = tables.items().read()
    counts = night.summary["counts"]
    assert items.count() == counts["read"] == 120
    assert sum(counts[s] for s in ("fresh", "reused", "stale", "degraded", "rejected")) == 120
    assert items.where("content_key is null and state != 'rejected'").count() == 0
    assert items.where("state in ('rejected', 'degraded') and reason is null").count() == 0


def test_vectors_have_unit_length_and_missing_views_are_null(tables):
    rows = tables.embeddings.read().where("outcome in ('embedded', 'degraded')").collect()
    for row in rows:
        vectors = {view: row[f"{view}_vector"] for view in ("image", "text", "fused")}
        assert vectors["fused"] is not None
        assert (vectors["image"] is None) == (row["image_key"] is None or row["outcome"] == "degraded")
        assert (vectors["text"] is None) == (row["title_hash"] is None)
        for vector in filter(None, vectors.values()):
            assert len(vector) == 256
            assert abs(np.linalg.norm(vector) - 1) < 1e-5
        if vectors["image"] is None:
            assert vectors["fused"] == vectors["text"]


def test_no_time_is_lost_on_looking_for_equal_and_largest_numbers_of_vectors(night):
    file = next((night.root / "tables" / "embeddings").rglob("part-*.parquet"))
    group = pq.read_metadata(file).row_group(0)
    columns = [group.column(i) for i in range(group.num_columns)]
    repeated = {c.path_in_schema for c in columns if any("DICTIONARY" in encoding for encoding in c.encodings)}
    ranged = {c.path_in_schema for c in columns if c.statistics is not None and c.statistics.has_min_max}
    assert "outcome" in repeated & ranged
    # The Parquet of Spark 3.5 does not take the second setting for some columns alone.
    lost = repeated if pyspark.__version__ < "4" else repeated | ranged
    assert not {name for name in lost if "_vector" in name}


def test_each_content_is_embedded_once(tables):
    embeddings = tables.embeddings.read()
    contents = tables.items().read().select("wanted_key").where("wanted_key is not null").distinct().count()
    assert embeddings.count() == contents
    assert embeddings.select("content_key").distinct().count() == contents


def test_a_wave_is_one_commit(spark, tables):
    from delta.tables import DeltaTable

    contents = tables.embeddings.read().count()
    history = DeltaTable.forPath(spark, tables.embeddings.path).history().where("operation = 'WRITE'")
    assert history.count() == -(-contents // 60)


def test_every_module_and_view_has_several_shards_with_all_their_items(release, tables):
    served = tables.items().read().where("content_key is not null")
    in_stock = served.where("attributes.in_stock").count()
    expected = {"search": served.count(), "homepage": in_stock}
    assert {(i.module, i.view) for i in release.indexes} == {
        ("search", "fused"),
        ("search", "image"),
        ("search", "text"),
        ("homepage", "fused"),
        ("history", "fused"),
    }
    for index in release.indexes:
        assert len(index.shards) >= 2
        assert index.orphans == 0
    for module, count in expected.items():
        assert release.module_items(module) == count


def test_titles_and_thumbnails_of_all_items_come_with_the_release(night, release, tables, tmp_path):
    cards = Display.load(Cache(open_store(night.root / "store"), tmp_path), release)
    served = tables.items().read().where("content_key is not null").collect()
    photos = {r["content_key"] for r in tables.embeddings.read().where("image_vector is not null").collect()}
    assert photos
    for item in served:
        card = cards.card(item["item_id"])
        assert (card.title, card.image_uri) == (item["title"], item["image_uri"])
        assert (card.thumbnail is not None) == (item["content_key"] in photos)
    assert sum(file.table.num_rows for file in cards.files) == len(served)


def test_a_node_is_what_was_really_encoded(night, release):
    """Offers that share photo and title are one node with several items; no node stands in two shards."""
    store = open_store(night.root / "store")
    keys = []
    for shard in release.index("search", "image").shards:
        rows = pq.read_table(store.path(shard.items_file.key))
        labels = rows.column("label").to_pylist()
        assert sorted(set(labels)) == list(range(shard.nodes))
        assert rows.num_rows == shard.items
        keys += set(zip(labels, rows.column("node_key").to_pylist(), strict=True))
    node_keys = [key for _, key in keys]
    assert len(node_keys) == len(set(node_keys))
    assert release.index("search", "image").items > len(node_keys)


def test_evaluation_columns_never_reach_the_release(night, release):
    store = open_store(night.root / "store")
    for ref in release.objects().values():
        if ref.key.endswith(".parquet"):
            assert "style_group" not in str(pq.read_schema(store.path(ref.key)))


def test_serving_finds_what_exact_search_finds(night, tables, tmp_path):
    searcher = open_release(night.root / "store", "search", tmp_path)
    served = tables.items().read().where("content_key is not null").select("item_id", "content_key", "served_at")
    vectors = tables.embeddings.read().select("content_key", F.col("embedded_at").alias("served_at"), "fused_vector")
    rows = served.join(vectors, ["content_key", "served_at"]).orderBy("item_id").limit(200).collect()
    matrix = np.array([r["fused_vector"] for r in rows], dtype=np.float32)
    ids = [r["item_id"] for r in rows]
    found = searcher.search(matrix[:10], k=5)
    _, scores = exact_search(matrix, matrix[:10], 5)
    for row, hits in enumerate(found):
        np.testing.assert_allclose([hit.score for hit in hits], scores[row], atol=1e-5)
        assert hits[0].score > 0.9999
        assert ids[row] in {hit.item_id for hit in hits if hit.score > 0.9999}


def test_neighbours_hold_to_their_bands(night, tables):
    items = tables.items().read().select("item_id", "supplier_id", "category")
    other = items.select(*[F.col(c).alias(f"n_{c}") for c in items.columns])
    rows = tables.neighbours.read().join(items, "item_id").join(other, F.col("neighbour_id") == F.col("n_item_id"))
    found = rows.collect()
    assert {r["band"] for r in found} >= {"same_style", "similar"}
    lowest = night.record("evaluate_index")["thresholds"]
    for r in found:
        assert r["item_id"] != r["neighbour_id"]
        assert (r["band"] == "duplicate") == (r["supplier_id"] == r["n_supplier_id"]) or r["band"] == "similar"
        assert lowest[r["band"]] <= r["score"] <= 1.0001
    shown = [r for r in found if r["rank"] <= 10]
    assert len(shown) == sum(night.record("neighbours")["rows"].values()) < len(found)
    assert max(r["rank"] for r in found) <= 20


def test_the_release_verifies_and_the_ledger_names_every_stage(night, release, tables):
    assert verify_release(open_store(night.root / "store"), release.release_id).objects > 10
    Draft202012Validator(manifest_schema()).validate(json.loads(release.to_json()))
    stages = [r["stage"] for r in tables.runs.read().orderBy("ended_at").collect()]
    assert stages == ["embed", "build_index", "evaluate_index", "neighbours", "publish", "maintain"]


def test_day_two_embeds_exactly_the_changed_contents(spark, second_night):
    """New offers and changed titles or photos cost an encoder call, a new price or stock none."""
    changes = day_changes(120, 7, 2)
    items = Warehouse(spark, str(second_night.root), "delta").items().read()
    fresh = {r["item_id"] for r in items.where("state = 'fresh'").collect()}
    own = items.where(F.col("item_id").isin([*changes.new, *changes.content_changed]))
    broken = {r["item_id"] for r in own.where("state in ('degraded', 'rejected')").collect()}
    shared = {r["item_id"] for r in own.where("state = 'reused'").collect()}  # a content that was there already
    assert fresh | broken | shared == set(changes.new) | set(changes.content_changed)
    assert not fresh & set(changes.price_only)
    assert second_night.record("embed")["attempted"] <= len(changes.new) + len(changes.content_changed)
    assert second_night.summary["counts"]["deleted"] == len(changes.withdrawn)


def test_day_two_updates_the_lists_of_neighbours(second_night):
    plans = {plan["module"]: plan for plan in second_night.record("neighbours")["plans"]}
    assert plans["search"]["reason"] is None
    assert 0 < plans["search"]["searched"] < plans["search"]["triggers"] / 2
    assert "lists updated" in second_night.text


def test_the_report_tells_what_the_day_has_changed(second_night):
    changes, page = day_changes(120, 7, 2), (second_night.folder / "report.html").read_text()
    assert "What this report could not find out" not in page
    assert page.index('id="changes"') < page.index('id="neighbours"') < page.index('id="drift"')
    (priced,) = re.findall(r"<b>(\d+)</b> another price, stock, category or supplier", page)
    assert 0 < int(priced) <= len(changes.price_only)  # but for those that were rejected anyway
    assert "<dt>demo.day</dt><dd>1 → 2</dd>" in page
    assert re.search(r'class="chip[ a-z]*">(as before|\d+ (new|gone))', page)
    assert " a second" in page


def test_the_examples_of_docs_tables_run_in_order(spark, night, capsys):
    """On this night, in place of the demo's below the checkout."""
    code = "\n".join(blocks("docs/tables.md", "python"))
    assert code.count('"data/demo') == 2
    exec(code.replace('"data/demo', f'"{night.root}'), {})
    printed = capsys.readouterr().out
    assert f"{night.summary['release_id']} was made from version" in printed
    assert "recall@10" in printed


def test_a_dry_run_prints_the_plan_and_writes_nothing(run_job, tmp_path):
    ended = run_job("nightly", tmp_path, "--dry-run")
    assert ended.code == 0, ended.text
    assert "120 rows" in ended.text
    assert "contents, in waves of 60" in ended.text
    assert "MiB of memory a shard" in ended.text
    assert sorted(p.name for p in tmp_path.iterdir() if p.name != "warehouse") == ["catalogue"]
