"""The long version: whole real catalogues, and ten nights of the demo shop, each checked by an independent count."""

import json

import pyarrow.parquet as pq
import pytest

from samestyle.demo.catalogue import catalogue_table
from samestyle.release.publish import current_release, verify_release
from samestyle.release.store import open_store
from tests.jobs.conftest import OFFERS
from tests.jobs.test_examples import EXAMPLES, run_example

pytestmark = pytest.mark.soak


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_whole_real_catalogue(spark, data_folder, tmp_path, name):
    path = data_folder / f"{name}.parquet"
    ended = run_example("nightly", name, tmp_path, f"catalogue.path={path}")
    assert ended.code == 0, ended.text
    print(next(line for line in ended.text.splitlines() if "published release" in line))
    assert ended.summary["counts"]["read"] == pq.read_metadata(path).num_rows
    assert ended.summary["items"]["search"] == ended.summary["counts"]["read"] - ended.summary["counts"]["rejected"]


def released_items(root) -> set[str]:
    """The items of the search module, read from the release's files alone."""
    store = open_store(root / "store")
    _, manifest = current_release(store)
    verify_release(store, manifest.release_id)
    shards = manifest.index("search", "fused").shards
    tables = [pq.read_table(store.path(s.items_file.key), columns=["item_id", "alive"]) for s in shards]
    return {item for table in tables for item in table.filter(table["alive"])["item_id"].to_pylist()}


def test_ten_days_of_the_demo_shop(run_job, tmp_path):
    """After each night the release holds what the day's catalogue holds, less what is rejected."""
    for day in range(1, 11):
        ended = run_job("nightly", tmp_path, f"demo.day={day}")
        assert ended.code == 0, ended.text
        catalogue = set(catalogue_table(OFFERS, day, 7).column("item_id").to_pylist())
        released = released_items(tmp_path)
        assert released <= catalogue
        assert len(catalogue - released) == ended.summary["counts"]["rejected"]
        print(f"day {day}: {json.dumps(ended.summary['counts'])}, {ended.summary['contents_embedded']} embedded")
