import dataclasses

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from releases import flip_bit, make_manifest, publish_small, store_display

from samestyle.errors import IntegrityError
from samestyle.release.display import GROUP_ROWS, SCHEMA, write_display
from samestyle.release.export import export_release, verify_export
from samestyle.release.manifest import Manifest
from samestyle.release.publish import verify_release
from samestyle.release.retention import collect_garbage
from samestyle.release.store import LocalStore
from samestyle.serving import display as module
from samestyle.serving.cache import Cache
from samestyle.serving.display import Card, Display

ROWS = [
    {"item_id": "b/2", "title": "Zwei", "image_uri": "https://photos/2.jpg", "thumbnail": b"\xff\xd8\xff2"},
    {"item_id": "a", "title": None, "image_uri": None, "thumbnail": None},
    {"item_id": "Ünï", "title": "雪", "image_uri": None, "thumbnail": b"\xff\xd8\xff3"},
]


@pytest.fixture
def store(tmp_path):
    return LocalStore(tmp_path / "store")


@pytest.fixture
def cache(store, tmp_path):
    return Cache(store, tmp_path / "cache")


def with_rows(store, tmp_path, *files):
    """A manifest whose display files have these rows."""
    refs = {f"items-{n:05d}": store_display(store, tmp_path / str(n), rows) for n, rows in enumerate(files)}
    return dataclasses.replace(make_manifest(store, tmp_path / "made"), display=refs)


def test_cards_are_found_by_their_items(store, cache, tmp_path):
    display = Display.load(cache, with_rows(store, tmp_path, ROWS))
    assert display.cards(["b/2", "a", "Ünï", "", "zz", "b"]) == {
        "b/2": Card("Zwei", "https://photos/2.jpg", b"\xff\xd8\xff2"),
        "a": Card(),
        "Ünï": Card("雪", None, b"\xff\xd8\xff3"),
        "": None,
        "zz": None,
        "b": None,
    }


def test_several_files_are_one(store, cache, tmp_path):
    display = Display.load(cache, with_rows(store, tmp_path, ROWS[:1], ROWS[1:]))
    assert [display.card(name).title for name in ("b/2", "a", "Ünï")] == ["Zwei", None, "雪"]


def test_the_same_rows_are_the_same_file_however_they_were_cut(tmp_path):
    rows = [
        {"item_id": f"i{n:05d}", "title": "a", "thumbnail": bytes([n % 256]) * 50} for n in range(2 * GROUP_ROWS + 7)
    ]
    table = pa.Table.from_pylist(rows, SCHEMA)
    sizes = {"whole": len(rows), "ones": 1, "odd": 1000}
    for name, size in sizes.items():
        assert write_display(table.to_batches(size), tmp_path / name) == len(rows)
        assert pq.read_table(tmp_path / name).to_pylist() == table.to_pylist()
    assert len({(tmp_path / name).read_bytes() for name in sizes}) == 1


def test_a_release_without_display_files_has_no_cards(store, cache, tmp_path):
    assert Display.load(cache, make_manifest(store, tmp_path)).cards(["i00000a"]) == {"i00000a": None}


def test_files_longer_than_a_batch_are_found_in_whole(store, cache, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "GROUP_ROWS", 7)
    rows = [{"item_id": f"i{n:03d}", "title": f"title {n}"} for n in range(100)]
    display = Display.load(cache, with_rows(store, tmp_path, rows))
    assert [display.card(row["item_id"]).title for row in rows] == [f"title {n}" for n in range(100)]


def test_nothing_is_left_beside_the_downloaded_file(store, cache, tmp_path):
    display = Display.load(cache, with_rows(store, tmp_path, ROWS))
    assert [path.suffix for path in (cache.folder / "objects").iterdir()] == [".parquet"]
    assert display.card("b/2").title == "Zwei"


def stored(store, tmp_path, table):
    pq.write_table(table, tmp_path / "display")
    ref = store.put_object(tmp_path / "display", ".parquet")
    return dataclasses.replace(make_manifest(store, tmp_path / "made"), display={"items-00000": ref})


@pytest.mark.parametrize(
    ("ids", "message"),
    [(["b", "a"], "not sorted"), (["a", "a"], "not sorted"), (["a", None], "not sorted")],
)
def test_unsorted_files_are_refused(store, cache, tmp_path, ids, message):
    table = pa.Table.from_pylist([{"item_id": name} for name in ids], SCHEMA)
    with pytest.raises(IntegrityError, match=message):
        Display.load(cache, stored(store, tmp_path, table))


def test_files_with_other_columns_are_refused(store, cache, tmp_path):
    with pytest.raises(IntegrityError, match=r"display file items-00000 .* is not readable"):
        Display.load(cache, stored(store, tmp_path, pa.table({"item_id": ["a"], "name": ["b"]})))


def test_a_damaged_file_is_refused(store, cache, tmp_path):
    manifest = with_rows(store, tmp_path, ROWS)
    flip_bit(tmp_path / "store" / manifest.display["items-00000"].key, 40)
    with pytest.raises(IntegrityError):
        Display.load(cache, manifest)


def test_display_files_are_the_releases_as_all_others(store, tmp_path):
    manifest = publish_small(store, tmp_path / "built", display=ROWS)
    ref = manifest.display["items-00000"]
    assert Manifest.from_json(manifest.to_json()).objects()[ref.key] == ref
    assert collect_garbage(store, 1, grace_s=-60).objects == {}
    export_release(store, "r1", tmp_path / "export")
    assert (tmp_path / "export" / "display" / "items-00000.parquet").is_file()
    verify_export(tmp_path / "export")
    flip_bit(tmp_path / "store" / ref.key, 40)
    with pytest.raises(IntegrityError, match=ref.key):
        verify_release(store, "r1")
