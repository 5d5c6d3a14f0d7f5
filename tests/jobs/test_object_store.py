"""Nights whose releases lie on S3: a real server, the same jobs, and a reader that has nothing but the bucket."""

import json
import shutil

import pytest

from samestyle.cli import main as samestyle
from samestyle.release.lease import NIGHTLY, Holder, Lease
from samestyle.release.publish import current_release, load_manifest, read_pointer, verify_release
from samestyle.release.s3 import ObjectReader
from samestyle.release.store import LocalStore, open_store
from samestyle.serving import open_release


@pytest.fixture(scope="module")
def shop(object_store, spark_session, night, tmp_path_factory):
    """The finished night, its releases moved to a bucket: a folder for runs and tables, and where releases lie.

    Workers get what spark.executorEnv would give them.
    """
    with pytest.MonkeyPatch.context() as patch:
        for name, value in object_store.environment.items():
            patch.setenv(name, value)
            patch.setitem(spark_session.sparkContext.environment, name, value)
        root, uri = tmp_path_factory.mktemp("shop") / "root", f"s3://{object_store.new_bucket()}/shop"
        shutil.copytree(night.root, root, ignore=shutil.ignore_patterns("store"))
        here, there = LocalStore(night.root / "store"), open_store(uri)
        for key in here.list():
            there.put_file(here.path(key), key)
        yield root, f"release.store={uri}"


def released(searcher) -> set[str]:
    items = [shard.items for shard in searcher._generation.views["fused"]]
    return {one.ids[row] for one in items for row in one.living.rows}


@pytest.fixture
def read_here(monkeypatch) -> list[str]:
    """Keys of what this process reads from S3; executors are processes of their own."""
    keys: list[str] = []

    class Noted(ObjectReader):
        def __init__(self, store, key, *rest):
            keys.append(key)
            super().__init__(store, key, *rest)

    monkeypatch.setattr("samestyle.release.s3.ObjectReader", Noted)
    return keys


def test_a_night_on_s3_with_a_takedown_a_candidate_and_a_command_that_is_told(
    run_job, shop, tmp_path, capsys, read_here
):
    root, store_word = shop
    uri, told = store_word.partition("=")[2], tmp_path / "told"
    script = tmp_path / "tell.sh"
    script.write_text(f'#!/bin/sh\ncat >> "{told}"\n')
    script.chmod(0o755)
    first = current_release(open_store(uri))[1]
    searcher = open_release(uri, "search", tmp_path / "cache")
    items = released(searcher)
    assert len(items) == first.module_items("search")

    denied = sorted(items)[:2]
    assert samestyle(["deny", "add", *denied, f"paths.root={root}", store_word]) == 0
    searcher.refresh()
    assert released(searcher) == items - set(denied)
    assert samestyle(["deny", "purge", f"paths.root={root}", store_word]) == 0
    # The same day: nothing but the takedown is new, and the shards without what it took down.
    read_here.clear()
    ended = run_job("nightly", root, store_word, "release.channel=candidate", f"notify.command={script}")
    assert ended.code == 0, ended.text
    assert json.loads(told.read_text())["outcome"] == "done"
    assert not (root / "store").exists()
    shards = [key for key in read_here if key.endswith((".hnsw", ".parquet"))]
    assert (shards, "channels/current" in read_here) == ([], True), "the driver reads no shard, not even to verify it"
    new = load_manifest(open_store(uri), ended.folder.name).objects().keys() - first.objects().keys()
    assert any(key.endswith(".hnsw") for key in new)
    assert verify_release(open_store(uri), ended.folder.name).objects > 10

    # It lies beside the one that serves until it is promoted.
    assert read_pointer(open_store(uri), "current").release_id == first.release_id
    candidate = read_pointer(open_store(uri), "candidate").release_id
    assert candidate == ended.folder.name
    assert not searcher.refresh().switched
    assert samestyle(["releases", "promote", "candidate", f"paths.root={root}", store_word]) == 0
    assert read_pointer(open_store(uri), "current").release_id == candidate
    assert samestyle(["releases", "diff", first.release_id, candidate, f"paths.root={root}", store_word]) == 0
    assert "release.channel" in capsys.readouterr().out
    assert searcher.refresh().switched
    second = searcher.manifest
    assert second.ledger["rejected"] == first.ledger["rejected"] + 2
    assert {index.view: index.items for index in second.indexes if index.module == "search"}["fused"] == len(items) - 2
    assert {probe.view for probe in second.probes.vectors if probe.centroid_shift == 0} >= {"fused"}
    assert all(probe.overlap > 0.9 for probe in second.probes.neighbours)


def test_a_second_night_on_s3_is_told_who_holds_the_lock(run_job, shop):
    root, store_word = shop
    store = open_store(store_word.partition("=")[2])
    with Lease.acquire(store, NIGHTLY, Holder.of_this_process("the-first-run"), 60):
        ended = run_job("nightly", root, store_word)
    assert ended.code == 4
    assert "held by run the-first-run" in ended.text
