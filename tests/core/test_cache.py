"""The folder of downloaded files stays as large as what serves and what a rollback needs."""

import subprocess
import sys
from pathlib import Path

import pytest
from releases import publish_small, small_catalogue

from samestyle.release.publish import rollback
from samestyle.release.store import LocalStore
from samestyle.serving import Searcher, open_release
from samestyle.serving.cache import Cache

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def store(tmp_path):
    return LocalStore(tmp_path / "store")


def reader(store, folder, module="search", unused_s=-1.0):
    """One that takes whatever is not needed for long unused."""
    return Searcher(store, module, Cache(store, folder, unused_s), "current", None, None, None)


def next_release(store, number):
    """A release that shares nothing but its encoder with the one before."""
    parent = f"r{number - 1}" if number > 1 else None
    return publish_small(
        store, store.root.parent / "built", f"r{number}", parent, catalogue=small_catalogue(seed=number)
    )


def files(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} - {".lock"}


def shards(*manifests):
    return {
        ref.key
        for manifest in manifests
        for shard in manifest.indexes[0].shards
        for ref in (shard.graph, shard.items_file)
    }


def test_what_serves_and_what_a_rollback_goes_to_stays_and_nothing_else(store, tmp_path):
    cache, made = tmp_path / "cache", [next_release(store, 1)]
    searcher = reader(store, cache)
    for number in (2, 3, 4):
        made.append(next_release(store, number))
        assert searcher.refresh().switched
        assert files(cache) == shards(*made[-2:])
    assert rollback(store).release_id == "r3"
    for key in store.list("objects/"):
        store.delete(key)
    assert searcher.refresh().switched, "nothing has to be downloaded"


def test_a_file_that_a_reader_asked_for_within_the_day_stays(store, tmp_path):
    cache, made = tmp_path / "cache", [next_release(store, 1)]
    searcher = reader(store, cache, unused_s=3600.0)
    for number in (2, 3, 4):
        made.append(next_release(store, number))
        assert searcher.refresh().switched
    assert files(cache) == shards(*made)


def test_other_readers_of_the_host_keep_what_they_have(store, tmp_path):
    """One of another module, and one that is pinned to an old release; its files may go, as they are in memory."""
    cache = tmp_path / "cache"
    next_release(store, 1)
    pinned = open_release(store.uri, "search", cache, release_id="r1")
    homepage = reader(store, cache, "homepage")
    for number in (2, 3):
        next_release(store, number)
        assert homepage.refresh().switched
    query = small_catalogue(seed=1).vectors[5]
    assert pinned.search(query, 1)[0][0].item_id == "i00005a"
    assert pinned.refresh().error is None
    assert open_release(store.uri, "search", cache, release_id="r1").search(query, 1)[0][0].item_id == "i00005a"


LOADING = """
import sys
from samestyle.release.store import LocalStore
from samestyle.serving.cache import Cache

with Cache(LocalStore(sys.argv[1]), sys.argv[2]).in_use():
    print("loading", flush=True)
    sys.stdin.readline()
"""


def test_while_another_process_is_loading_nothing_is_removed(store, tmp_path):
    folder, made = tmp_path / "cache", next_release(store, 1)
    reader(store, folder)
    cache = Cache(store, folder, unused_s=-1.0)
    command = [sys.executable, "-c", LOADING, store.uri, str(folder)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "loading\n"
        assert cache.tidy([]) == 0
        other.communicate("done\n")
    assert files(folder) == shards(made)
    assert cache.tidy([]) == len(shards(made))
    assert files(folder) == set()


def test_half_files_of_killed_readers_go_and_what_is_not_ours_stays(store, tmp_path):
    folder = tmp_path / "cache"
    for name in ("objects/.tmp-1", "objects/.display-1", "objects/notes.txt", "holiday.jpg"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    assert Cache(store, folder, unused_s=-1.0).tidy([]) == 2
    assert files(folder) == {"objects/notes.txt", "holiday.jpg"}


def test_a_store_that_is_named_as_a_cache_loses_nothing(store):
    next_release(store, 1)
    before = files(store.root)
    next_release(store, 2)
    reader(store, store.root)
    assert before <= files(store.root)


def test_a_cache_that_cannot_be_locked_is_read_and_not_tidied(store, tmp_path):
    folder, made = tmp_path / "cache", next_release(store, 1)
    (folder / ".lock").mkdir(parents=True)
    assert reader(store, folder).search(small_catalogue(seed=1).vectors[5], 1)[0][0].item_id == "i00005a"
    assert Cache(store, folder, unused_s=-1.0).tidy([]) == 0
    assert files(folder) == shards(made)
