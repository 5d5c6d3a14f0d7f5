import json

import pytest
from releases import edit_json, judged, make_manifest

from samestyle.errors import IntegrityError, UsageError
from samestyle.release.manifest import Change, Manifest, Pointer, Thresholds
from samestyle.release.store import LocalStore


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    folder = tmp_path_factory.mktemp("manifest")
    return judged(make_manifest(LocalStore(folder / "store"), folder))


def test_what_is_written_is_read_back(manifest):
    data = manifest.to_json()
    assert Manifest.from_json(data) == manifest
    assert Manifest.from_json(data).to_json() == data


def test_it_names_every_object_once(manifest):
    # two shards with two files each, shared by three indexes, and one file of the encoder
    assert len(manifest.objects()) == 5


def test_items_are_counted_by_module(manifest):
    assert manifest.modules() == ["search", "homepage"]
    assert manifest.module_items("search") == 132  # 120 nodes, every tenth with a second item
    assert manifest.module_items("history") == 0
    with pytest.raises(UsageError, match=r"no index search/text: it has search/fused, search/image, homepage/fused"):
        manifest.index("search", "text")


def test_fields_of_later_versions_are_passed_over(manifest):
    data = edit_json(manifest.to_json(), ("indexes", 0, "a_later_field"), 1)
    assert Manifest.from_json(data) == manifest


FIRST = ("indexes", 0)
SHARD = ("indexes", 0, "shards", 0)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("format_version",), 2, "format_version is 2, expected 1"),
        (("format_version",), True, "format_version is True, expected 1"),
        (("release_id",), ..., "release_id is 'missing'"),
        (("release_id",), "../r2", r"release_id is '\.\./r2'"),
        (("release_id",), 7, "release_id is 7, expected of type str"),
        (("parent",), "a/b", "parent is 'a/b'"),
        (("ledger", "read"), "12", "ledger.read is '12', expected of type int"),
        (("ledger", "read"), 1.5, "ledger.read is 1.5, expected of type int"),
        (("indexes",), [], r"indexes is \[\]"),
        (("indexes",), {}, r"indexes is \{\}, expected a list"),
        (("encoder",), None, "encoder is None, expected an object"),
        (("encoder", "dim"), 32, r"index search/fused dim is 16, expected 32, the encoder's"),
        (("encoder", "files"), {"../x": None}, r"encoder.files.\.\./x is None, expected an object"),
        ((*FIRST, "module"), "..", r"module is '\.\.'"),
        ((*FIRST, "view"), "sound", "view is 'sound', expected one of image, text, fused"),
        ((*FIRST, "metric"), "l2", "metric, space is"),
        ((*FIRST, "space"), "l2", "metric, space is"),
        ((*FIRST, "dim"), 10**6, "dim is 1000000, expected 1 to 65536"),
        ((*FIRST, "dim"), -1, "dim is -1"),
        ((*FIRST, "ef_search"), 0, "m, ef_construction, ef_search"),
        ((*FIRST, "view"), "image", "indexes is"),
        ((*FIRST, "recall", "low"), 0.999, "recall low, value, high"),
        ((*FIRST, "recall", "value"), True, r"recall.value is True, expected of type float"),
        ((*FIRST, "thresholds", "similar"), 0.95, "similar, same_style, duplicate"),
        ((*SHARD, "nodes"), 2**40, "shard 0 nodes is 1099511627776"),
        ((*SHARD, "nodes"), 100_000, "shard 0 graph bytes is"),
        ((*SHARD, "nodes"), 0, "shard 0 nodes is 0"),
        ((*SHARD, "items"), -1, "shard 0 items is -1"),
        ((*SHARD, "shard"), 1, r"shards is \[1, 1\]"),
        ((*SHARD, "graph", "key"), "objects/../../etc/passwd", "object key is 'objects/../../etc/passwd'"),
        ((*SHARD, "graph", "sha256"), "x", "object sha256 is 'x'"),
        ((*SHARD, "graph", "bytes"), 2**60, "is said to have 1152921504606846976 bytes"),
        ((*SHARD, "items_file"), "objects/x", "items_file is 'objects/x', expected an object"),
        (("gate", 0, "passed"), "yes", r"gate\[0\].passed is 'yes', expected of type bool"),
    ],
)  # fmt: skip
def test_an_edited_manifest_is_refused_with_the_field_and_both_values(manifest, path, value, message):
    with pytest.raises(IntegrityError, match=message):
        Manifest.from_json(edit_json(manifest.to_json(), path, value))


def test_file_names_cannot_leave_their_folder(manifest):
    tree = json.loads(manifest.to_json())
    ref = tree["encoder"]["files"]["card.json"]
    for name in ("../x", "/etc/passwd", "a/../../x", "a\\b", ""):
        data = edit_json(manifest.to_json(), ("encoder", "files"), {name: ref})
        with pytest.raises(IntegrityError, match="no safe file name"):
            Manifest.from_json(data)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not readable as JSON"),
        (b"\xff\xfe\x00", "not readable as JSON"),
        (b"[" * 100_000, "not readable as JSON"),
        (b"[]", r"the whole is \[\], expected an object"),
        (b'{"format_version": 1, "format_version": 1}', "a key stands twice"),
        (b'{"format_version": NaN}', "NaN is no number"),
        (b"{}", "format_version is None, expected 1"),
    ],
)
def test_what_is_no_manifest_is_refused(data, message):
    with pytest.raises(IntegrityError, match=message):
        Manifest.from_json(data)


def test_truncated_anywhere_it_is_refused(manifest):
    data = manifest.to_json().rstrip()
    for end in range(0, len(data) - 1, 37):
        with pytest.raises(IntegrityError):
            Manifest.from_json(data[:end])


def test_channels_are_checked_as_well():
    change = Change("publish", "r1", "0" * 64, "2026-01-01")
    pointer = Pointer("r1", "0" * 64, "2026-01-01", None, (change,))
    assert Pointer.from_json(pointer.to_json()) == pointer
    for field, value in (
        ("release_id", "../x"),
        ("manifest_sha256", "x"),
        ("previous", "a/b"),
        ("history", [1]),
    ):
        with pytest.raises(IntegrityError):
            Pointer.from_json(edit_json(pointer.to_json(), (field,), value))


@pytest.mark.parametrize(
    ("score", "same_supplier", "band"),
    [
        (0.95, True, "duplicate"),
        (0.95, False, "same_style"),
        (0.85, True, "similar"),
        (0.8, False, "same_style"),
        (0.7, True, "similar"),
        (0.5, False, "similar"),
        (0.49, False, None),
    ],
)
def test_each_neighbour_is_in_at_most_one_band(score, same_supplier, band):
    assert Thresholds(0.8, 0.5, 0.9).band(score, same_supplier) == band
