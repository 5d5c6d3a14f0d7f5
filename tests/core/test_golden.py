"""Stores that former versions wrote must open for ever: tests/golden/store-<format_version> are never written again."""

import shutil
from pathlib import Path

import pytest
from releases import small_catalogue

from samestyle.release.denylist import read_denylist
from samestyle.release.export import export_release, verify_export
from samestyle.release.manifest import FORMAT_VERSION
from samestyle.release.publish import list_releases, read_pointer, rollback, verify_release
from samestyle.release.store import LocalStore
from samestyle.serving import open_release

GOLDEN = Path(__file__).resolve().parents[1] / "golden"


@pytest.fixture(params=range(1, FORMAT_VERSION + 1))
def golden(request, tmp_path) -> LocalStore:
    shutil.copytree(GOLDEN / f"store-{request.param}", tmp_path / "store")
    return LocalStore(tmp_path / "store")


def test_a_release_of_a_former_version_is_verified_searched_and_exported(golden, tmp_path):
    """40 nodes, every tenth with two items; node 3 is dead, and i00005a is denied."""
    assert list_releases(golden) == ["r1", "r2"]
    assert [verify_release(golden, name).objects for name in ("r1", "r2")] == [5, 5]
    searcher = open_release(golden.uri, "search", tmp_path / "cache")
    vectors = small_catalogue(40).vectors
    found = {hit.item_id for hit in searcher.search(vectors[0], 100)[0]}
    everything = {row["item_id"] for row in small_catalogue(40).rows}
    assert found == everything - {"i00003a", "i00005a"}
    assert searcher.search(vectors[7], 1)[0][0].attributes == {"price": 7.0, "in_stock": False}
    export_release(golden, "r1", tmp_path / "out")
    assert verify_export(tmp_path / "out").objects == 13


def test_channel_history_and_denylist_of_a_former_version_are_read(golden):
    pointer = read_pointer(golden, "current")
    assert [(change.action, change.release_id) for change in pointer.history] == [("publish", "r1"), ("publish", "r2")]
    assert {item: one.reason for item, one in read_denylist(golden).items.items()} == {"i00005a": "a court said so"}
    assert rollback(golden).release_id == "r1"
