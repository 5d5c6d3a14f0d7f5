import dataclasses
import json
import os
import threading

import pytest
from releases import flip_bit, judged, make_manifest, publish_small, small_catalogue

from samestyle.errors import ConflictError, IntegrityError, RefusedError, UsageError
from samestyle.release.export import export_release
from samestyle.release.publish import (
    channels,
    current_release,
    list_releases,
    load_manifest,
    publish,
    read_pointer,
    rollback,
    verify_release,
)
from samestyle.release.retention import collect_garbage
from samestyle.release.store import LocalStore, ObjectRef


@pytest.fixture
def store(tmp_path):
    return LocalStore(tmp_path / "store")


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "built"


def graph_path(store, manifest, shard=0):
    return store.path(manifest.indexes[0].shards[shard].graph.key)


def objects(store):
    return set(store.list("objects/"))


def test_nothing_is_published_at_first(store):
    assert current_release(store) is None
    assert list_releases(store) == []
    assert channels(store) == {}


def test_a_published_release_is_what_the_channel_names(store, folder):
    manifest = publish_small(store, folder)
    pointer, found = current_release(store)
    assert found == manifest
    assert (pointer.release_id, pointer.previous) == ("r1", None)
    assert json.loads(store.get("channels/current"))["release_id"] == "r1"
    assert verify_release(store, "r1").objects == 5


def test_an_untouched_shard_is_the_same_object_in_the_next_release(store, folder):
    publish_small(store, folder, "r1")
    before = objects(store)
    publish_small(store, folder, "r2", "r1")
    assert objects(store) == before
    assert list_releases(store) == ["r1", "r2"]


def test_publishing_again_after_a_kill_changes_nothing(store, folder):
    manifest = publish_small(store, folder)
    before = store.get("channels/current")
    publish(store, manifest, "current", None)
    assert store.get("channels/current") == before


def test_a_manifest_that_a_killed_publish_left_is_taken_up(store, folder):
    manifest = judged(make_manifest(store, folder))
    store.put("releases/r1/manifest.json", manifest.to_json())
    publish(store, manifest, "current", None)
    assert read_pointer(store, "current").release_id == "r1"


def test_another_release_of_the_same_name_is_refused(store, folder):
    manifest = publish_small(store, folder)
    with pytest.raises(ConflictError, match="releases/r1/manifest"):
        publish(store, dataclasses.replace(manifest, run_id="other"), "candidate", None)


def test_a_channel_that_moved_meanwhile_is_left_alone(store, folder):
    publish_small(store, folder, "r1")
    late = judged(make_manifest(store, folder, "r2"))
    with pytest.raises(ConflictError, match="channel current names r1, this run started from nothing"):
        publish(store, late, "current", None)
    assert list_releases(store) == ["r1"]


def test_of_two_that_publish_at_once_one_wins(store, folder):
    manifests = [judged(make_manifest(store, folder, f"r{i}")) for i in (1, 2)]
    won, lost, start = [], [], threading.Barrier(2)

    def go(manifest):
        start.wait()
        try:
            won.append(publish(store, manifest, "current", None).release_id)
        except ConflictError as error:
            lost.append(error)

    threads = [threading.Thread(target=go, args=(manifest,)) for manifest in manifests]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(won), len(lost)) == (1, 1)
    assert read_pointer(store, "current").release_id == won[0]


def refused(store, folder):
    """A release with orphans, judged."""
    manifest = make_manifest(store, folder)
    shards = tuple(dataclasses.replace(shard, orphans=2) for shard in manifest.indexes[0].shards)
    first = dataclasses.replace(manifest.indexes[0], shards=shards)
    return judged(dataclasses.replace(manifest, indexes=(first, *manifest.indexes[1:])))


def test_a_refused_release_is_not_published(store, folder):
    with pytest.raises(RefusedError, match=r"(?s)refused release r1 by 1 of \d+ rules.*orphans search/fused: .* is 4"):
        publish(store, refused(store, folder), "current", None)
    assert list_releases(store) == []
    assert current_release(store) is None


def test_a_forced_release_says_why(store, folder):
    publish(store, refused(store, folder), "current", None, force_reason="the shop asked for it")
    assert current_release(store)[1].forced == "the shop asked for it"


def test_a_blank_reason_is_none_and_a_needless_one_is_not_recorded(store, folder):
    with pytest.raises(RefusedError):
        publish(store, refused(store, folder), "current", None, force_reason="  ")
    publish(store, judged(make_manifest(store, folder)), "current", None, force_reason="just in case")
    assert current_release(store)[1].forced is None


def test_without_the_gate_nothing_is_published(store, folder):
    with pytest.raises(RefusedError, match="no gate results"):
        publish(store, make_manifest(store, folder), "current", None)


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_a_release_with_a_damaged_object_is_not_published(store, folder, damage):
    manifest = judged(make_manifest(store, folder))
    path = graph_path(store, manifest)
    if damage == "flip":
        flip_bit(path, 1000)
    elif damage == "truncate":
        os.truncate(path, path.stat().st_size - 1)
    else:
        path.unlink()
    said = {"flip": "has sha256", "truncate": "bytes, the manifest says", "remove": "is missing"}[damage]
    with pytest.raises(IntegrityError, match=rf"(?s)damaged in 1 of 5 objects.*{path.name} .*{said}|{said}"):
        publish(store, manifest, "current", None)
    assert list_releases(store) == []


def test_an_edited_manifest_is_noticed(store, folder):
    publish_small(store, folder)
    path = store.path("releases/r1/manifest.json")
    path.write_bytes(path.read_bytes().replace(b'"ef_search": 50', b'"ef_search": 10'))
    with pytest.raises(IntegrityError, match="its channel says"):
        current_release(store)
    with pytest.raises(IntegrityError, match="its channel says"):
        verify_release(store, "r1")


def test_a_manifest_in_anothers_place_is_noticed(store, folder):
    publish_small(store, folder)
    store.put("releases/r9/manifest.json", store.get("releases/r1/manifest.json"))
    with pytest.raises(IntegrityError, match="says that it is release r1, expected r9"):
        load_manifest(store, "r9")


@pytest.mark.parametrize("name", ["../r1", "", "a/b", ".hidden"])
def test_names_cannot_leave_their_folder(store, name):
    with pytest.raises(UsageError):
        load_manifest(store, name)
    with pytest.raises(UsageError):
        read_pointer(store, name)


def nights(store, folder, count):
    parent = None
    for night in range(1, count + 1):
        publish_small(store, folder, f"r{night}", parent)
        parent = f"r{night}"


def test_rolling_back_again_goes_further_back(store, folder):
    nights(store, folder, 3)
    assert rollback(store).release_id == "r2"
    assert rollback(store).release_id == "r1"
    with pytest.raises(UsageError, match="no release before r1"):
        rollback(store)
    assert rollback(store, to="r3").release_id == "r3"
    moves = [(change.action, change.release_id) for change in read_pointer(store, "current").history]
    assert moves == [
        ("publish", "r1"), ("publish", "r2"), ("publish", "r3"),
        ("rollback", "r2"), ("rollback", "r1"), ("rollback", "r3"),
    ]  # fmt: skip


def test_the_night_after_a_rollback_goes_on_from_there(store, folder):
    nights(store, folder, 2)
    rollback(store)
    publish_small(store, folder, "r3", "r1")
    assert read_pointer(store, "current").previous == "r1"


def test_a_damaged_release_is_not_rolled_back_to(store, folder):
    first = publish_small(store, folder, "r1", catalogue=small_catalogue(seed=1))
    publish_small(store, folder, "r2", "r1")
    flip_bit(graph_path(store, first), 1000)
    with pytest.raises(IntegrityError, match="release r1 is damaged in 1 of 5"):
        rollback(store)
    assert read_pointer(store, "current").release_id == "r2"


def test_rolling_back_to_nowhere_is_refused(store, folder):
    with pytest.raises(UsageError, match="no release before its first one"):
        rollback(store)
    publish_small(store, folder)
    with pytest.raises(UsageError, match="names r1 already"):
        rollback(store, to="r1")
    with pytest.raises(UsageError, match="there is no release r7"):
        rollback(store, to="r7")


def different_nights(store, folder, count):
    """Releases that share only the encoder."""
    manifests, parent = [], None
    for night in range(1, count + 1):
        manifests.append(
            publish_small(store, folder, f"r{night}", parent, catalogue=small_catalogue(40, seed=night), shards=1)
        )
        parent = f"r{night}"
    return manifests


def later():
    return 4e9


def test_garbage_is_what_no_kept_release_names(store, folder):
    manifests = different_nights(store, folder, 5)
    everything = objects(store)
    would = collect_garbage(store, 2, clock=later)
    assert would.releases == ("r1", "r2", "r3")
    assert objects(store) == everything
    removed = collect_garbage(store, 2, dry_run=False, clock=later)
    assert removed.objects == would.objects
    assert objects(store) == set(manifests[3].objects()) | set(manifests[4].objects())
    assert removed.bytes == sum(ref.bytes for m in manifests[:3] for ref in m.objects().values()
                                if ref.key not in objects(store))  # fmt: skip
    for release_id in list_releases(store):
        verify_release(store, release_id)


def test_what_a_channel_names_or_would_go_back_to_is_kept(store, folder):
    different_nights(store, folder, 5)
    rollback(store, to="r2")  # which would go back to r1
    publish(store, load_manifest(store, "r3"), "candidate", None)
    collect_garbage(store, 1, dry_run=False, clock=later)
    assert list_releases(store) == ["r1", "r2", "r3", "r5"]
    assert rollback(store).release_id == "r1"


def test_young_objects_and_releases_stay(store, folder, tmp_path):
    different_nights(store, folder, 3)
    (tmp_path / "new").write_bytes(b"of a build that is running")
    new = store.put_object(tmp_path / "new", ".hnsw")
    assert not collect_garbage(store, 1, dry_run=False).releases
    assert store.exists(new.key)
    assert new.key in collect_garbage(store, 1, dry_run=False, clock=later).objects


def test_a_lost_lease_stops_the_removal(store, folder):
    different_nights(store, folder, 3)
    before = objects(store)

    def lost():
        raise ConflictError("lost")

    with pytest.raises(ConflictError):
        collect_garbage(store, 1, dry_run=False, clock=later, check=lost)
    assert objects(store) == before


def test_with_an_unreadable_manifest_nothing_is_removed(store, folder):
    different_nights(store, folder, 3)
    store.put("releases/r1/manifest.json", b"{}")
    before = objects(store)
    with pytest.raises(IntegrityError):
        collect_garbage(store, 1, dry_run=False, clock=later)
    assert objects(store) == before


def test_an_export_is_complete_and_needs_no_store(store, folder, tmp_path):
    manifest = publish_small(store, folder)
    export_release(store, "r1", tmp_path / "out")
    files = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    shards = {
        f"{module}/shard-{shard:05d}.{suffix}"
        for module in ("search/fused", "search/image", "homepage/fused")
        for shard in (0, 1)
        for suffix in ("hnsw", "items.parquet", "items.jsonl")
    }
    assert files == shards | {"manifest.json", "encoder/card.json"}
    assert (tmp_path / "out/manifest.json").read_bytes() == store.get("releases/r1/manifest.json")
    graph = manifest.indexes[0].shards[1].graph
    assert (tmp_path / "out/search/fused/shard-00001.hnsw").read_bytes() == store.get(graph.key)
    lines = (tmp_path / "out/search/fused/shard-00000.items.jsonl").read_text().splitlines()
    assert len(lines) == manifest.indexes[0].shards[0].items
    assert json.loads(lines[0]) == {
        "label": 0, "node_key": "node00000", "item_id": "i00000a", "alive": True, "supplier_id": "s0",
        "category": "home/lamps", "attributes": {"price": 0.0, "in_stock": True},
    }  # fmt: skip


def test_an_export_is_complete_or_not_there(store, folder, tmp_path):
    manifest = publish_small(store, folder)
    flip_bit(graph_path(store, manifest, 1), 1000)
    with pytest.raises(IntegrityError, match="damaged and not opened"):
        export_release(store, "r1", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir() if "out" in path.name] == []
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "file").touch()
    with pytest.raises(UsageError, match="is there already"):
        export_release(store, "r1", tmp_path / "used")


def test_a_folder_is_stored_file_by_file(store, tmp_path):
    (tmp_path / "encoder/golden").mkdir(parents=True)
    (tmp_path / "encoder/golden/query.png").write_bytes(b"png")
    (tmp_path / "encoder/LICENSE").write_bytes(b"text")
    files = store.put_folder(tmp_path / "encoder")
    assert sorted(files) == ["LICENSE", "golden/query.png"]
    assert isinstance(files["LICENSE"], ObjectRef)
    assert store.get(files["golden/query.png"].key) == b"png"
