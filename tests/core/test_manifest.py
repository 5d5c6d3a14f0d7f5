import dataclasses
import json
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator
from releases import edit_json, judged, make_manifest

from samestyle.errors import IntegrityError, UsageError
from samestyle.release.manifest import (
    Change,
    EncoderEntry,
    Index,
    Manifest,
    NeighbourProbe,
    Pointer,
    Probes,
    QualityProbe,
    Recall,
    Shard,
    Thresholds,
    VectorProbe,
)
from samestyle.release.schema import LIMITS, manifest_schema, schema_path, schema_text
from samestyle.release.store import LocalStore, ObjectRef

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
SCHEMA = Draft202012Validator(manifest_schema())


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


EDITS = [
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
]  # fmt: skip


@pytest.mark.parametrize(("path", "value", "message"), EDITS)
def test_an_edited_manifest_is_refused_with_the_field_and_both_values(manifest, path, value, message):
    with pytest.raises(IntegrityError, match=message):
        Manifest.from_json(edit_json(manifest.to_json(), path, value))


# Rules between fields, which a schema cannot say.
BETWEEN = (
    "32, the encoder's", "indexes is", "recall low, value, high", "similar, same_style, duplicate", "graph bytes is",
    "shards is",
)  # fmt: skip


@pytest.mark.parametrize(("path", "value", "message"), EDITS)
def test_its_schema_refuses_it_as_well(manifest, path, value, message):
    edited = json.loads(edit_json(manifest.to_json(), path, value))
    between = any(rule in message for rule in BETWEEN) and path[-1] != "indexes"
    assert SCHEMA.is_valid(edited) == between


def test_the_schema_and_the_dataclasses_agree():
    assert schema_path().read_text() == schema_text(), "run python -m samestyle.reference"


def test_every_limit_of_the_schema_is_one_of_the_reader(manifest):
    """Each field one step beyond its limit: both refuse."""
    tree, tried = json.loads(manifest.to_json()), 0
    places = {Manifest: (), Index: FIRST, Shard: SHARD, ObjectRef: (*SHARD, "graph"), EncoderEntry: ("encoder",),
              Recall: (*FIRST, "recall"), Thresholds: (*FIRST, "thresholds")}  # fmt: skip
    for kind, place in places.items():
        for name, limits in LIMITS[kind].items():
            for beyond in beyond_limits(limits):
                edited = edit_json(json.dumps(tree).encode(), (*place, name), beyond)
                assert not SCHEMA.is_valid(json.loads(edited)), (name, beyond)
                with pytest.raises(IntegrityError):
                    Manifest.from_json(edited)
                tried += 1
    assert tried > 40


def beyond_limits(limits):
    steps = {
        "minimum": lambda least: least - 1,
        "maximum": lambda most: most + 1,
        "pattern": lambda _: "a/b",
        "enum": lambda _: "other",
        "const": lambda one: 2 if one == 1 else "l2",
        "minItems": lambda _: [],
    }
    return [step(limits[name]) for name, step in steps.items() if name in limits]


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("store-*/releases/*/manifest.json")), ids=str)
def test_what_former_versions_wrote_keeps_to_the_schema_of_its_version(path):
    tree = json.loads(path.read_text())
    Draft202012Validator(json.loads(schema_path(tree["format_version"]).read_text())).validate(tree)


def test_a_manifest_with_all_that_is_optional_keeps_to_the_schema(manifest):
    probes = Probes(
        (VectorProbe("image", 10, 1, 0.5, 0.5),),
        (NeighbourProbe("search", 1, 2, 0.5),),
        (QualityProbe("e", "m-m", 1.0, 0.5),),
    )
    full = dataclasses.replace(manifest, parent="r0", probes=probes, forced="because", display=manifest.encoder.files)
    SCHEMA.validate(json.loads(full.to_json()))
    SCHEMA.validate(json.loads(edit_json(full.to_json(), ("a_later_field",), 1)))


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
