"""What keeps the tables small, and what it must never touch: all that a kept release was made from."""

import shutil

import pytest
from conftest import AT_ONCE
from pyspark.sql import functions as F

from samestyle.demo.days import day_changes
from samestyle.release.manifest import manifest_key
from samestyle.release.publish import list_releases, load_manifest
from samestyle.release.store import open_store
from samestyle.tables import maintenance
from samestyle.tables.warehouse import Warehouse, embeddings_by_item


@pytest.fixture
def two_nights(second_night, tmp_path):
    """A release of day 1 and one of day 2."""
    return shutil.copytree(second_night.root, tmp_path / "copied")


def served_rows(warehouse, manifest) -> list[tuple[str, float]]:
    """Every served item of a release with the sum of its fused vector, as an analyst would read them."""
    items = warehouse.items().read(manifest.items_version).where("content_key is not null")
    vectors = embeddings_by_item(items, warehouse.embeddings_of(manifest.encoder.encoder_id))
    total = F.aggregate("fused_vector", F.lit(0.0), lambda total, value: total + value)
    rows = vectors.select("item_id", total.alias("total")).orderBy("item_id").collect()
    assert len(rows) == items.count()
    return [(row["item_id"], round(row["total"], 4)) for row in rows]


def test_what_a_kept_release_was_made_from_stays_and_the_rest_goes(spark, run_job, two_nights, monkeypatch):
    store, warehouse = open_store(two_nights / "store"), Warehouse(spark, str(two_nights), "delta")
    first, second = (load_manifest(store, release_id) for release_id in list_releases(store))
    before = [served_rows(warehouse, one) for one in (first, second)]
    rows = warehouse.embeddings.read().count()

    # Both releases are kept: files are joined and vacuumed, and nothing else is lost.
    monkeypatch.setattr(maintenance, "SMALL_FILES", 1)
    ended = run_job("maintain", two_nights, "demo.day=2", *AT_ONCE)
    assert ended.code == 0, ended.text
    done = ended.record("maintain")
    assert done["joined_files"]["embeddings"] > 1
    assert done["removed_files"]["embeddings"] > 1
    assert done["removed_rows"] == {}
    assert "items" not in done["removed_files"]
    assert [served_rows(warehouse, one) for one in (first, second)] == before
    assert warehouse.embeddings.read().count() == rows

    # The first one goes, once a run has begun from the second: with it the vectors of what day 2 withdrew or changed.
    assert run_job("embed", two_nights, "demo.day=2").code == 0
    store.delete(manifest_key(first.release_id))
    ended = run_job("maintain", two_nights, "demo.day=2", *AT_ONCE)
    assert ended.code == 0, ended.text
    done = ended.record("maintain")
    changes = day_changes(120, 7, 2)
    assert 0 < done["removed_rows"]["embeddings"] <= len(changes.withdrawn) + len(changes.content_changed)
    assert warehouse.embeddings.read().count() == rows - done["removed_rows"]["embeddings"]
    assert {r["release_id"] for r in warehouse.neighbours.read().select("release_id").distinct().collect()} == {
        second.release_id
    }
    assert "items" not in done["removed_files"]
    assert served_rows(warehouse, second) == before[1]
    again = run_job("nightly", two_nights, "demo.day=2", "--dry-run")
    assert "embed       0 contents" in again.text


def test_by_default_a_young_shop_loses_nothing(second_night):
    assert second_night.record("maintain") == {"removed_rows": {}, "joined_files": {}, "removed_files": {}}
