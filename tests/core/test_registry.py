"""Encoders in a store: registered whole or not at all, evaluated later, fetched without their evaluations, promoted."""

import dataclasses
import json

import pytest
from encoders import card, write_folder
from releases import flip_bit, publish_small

from samestyle.encoder import promotion, registry
from samestyle.encoder.files import EncoderFiles
from samestyle.errors import ConflictError, IntegrityError, RefusedError, UsageError
from samestyle.release.manifest import EncoderEntry
from samestyle.release.store import LocalStore


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()
    return LocalStore(tmp_path / "store")


@pytest.fixture
def folder(tmp_path):
    write_folder(tmp_path / "first", 1)
    return tmp_path / "first"


def stored(store, encoder_id):
    prefix = f"encoders/{encoder_id}/"
    return {key.removeprefix(prefix): store.get(key) for key in store.list(prefix)}


def local(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class FullDiskError(Exception):
    pass


class FailingStore(LocalStore):
    """Writes three files, and no more."""

    writes = 3

    def put_file(self, path, key):
        self.writes -= 1
        if self.writes < 0:
            raise FullDiskError
        super().put_file(path, key)


def test_a_registered_encoder_is_its_folder(store, folder):
    encoder_id = registry.register(store, folder)
    assert stored(store, encoder_id) == local(folder)
    assert registry.list_encoders(store) == [encoder_id]
    assert registry.current_encoder(store) is None  # a candidate: nothing is promoted by registering it


def test_files_that_encoder_json_does_not_list_stay_behind(store, folder):
    before = local(folder)
    (folder / "notes.txt").write_text("mine")
    assert stored(store, registry.register(store, folder)) == before


def test_a_killed_registration_is_not_there_and_the_next_one_repairs_it(store, folder):
    with pytest.raises(FullDiskError):
        registry.register(FailingStore(store.root), folder)
    assert len(list(store.list("encoders/"))) == 3
    assert registry.list_encoders(store) == []
    encoder_id = registry.register(store, folder)
    assert stored(store, encoder_id) == local(folder)


def test_a_damaged_file_in_the_store_is_written_anew_with_all_others(store, folder):
    encoder_id = registry.register(store, folder)
    registry.record_evaluation(store, encoder_id, "shop", {"mean": {}})
    for name in ("image.onnx", "encoder.json"):
        flip_bit(store.path(f"encoders/{encoder_id}/{name}"), 0)
        assert not registry.is_whole(store, encoder_id)
        registry.register(store, folder)
        assert registry.is_whole(store, encoder_id)
    assert list(registry.evaluations(store, encoder_id)) == ["shop"]


def test_a_damaged_folder_is_not_registered(store, folder):
    flip_bit(folder / "image.onnx", 0)
    with pytest.raises(IntegrityError, match="damaged"):
        registry.register(store, folder)
    with pytest.raises(UsageError, match="no encoder in"):
        registry.register(store, folder / "golden")
    assert list(store.list()) == []


def test_the_first_registration_of_an_id_stays(store, folder, tmp_path):
    encoder_id = registry.register(store, folder)
    first = stored(store, encoder_id)
    again = tmp_path / "again"
    write_folder(again, 1)
    description = json.loads((again / "encoder.json").read_text()) | {"created_at": "later"}
    (again / "encoder.json").write_text(json.dumps(description))
    assert registry.register(store, again) == encoder_id
    assert stored(store, encoder_id) == first


def test_a_local_copy_has_the_listed_files_alone_and_opens(store, folder):
    encoder_id = registry.register(store, folder)
    registry.record_evaluation(store, encoder_id, "shop", {"mean": {}}, b"queries")
    copy = registry.local_copy(store, encoder_id)
    assert local(copy) == local(folder)
    assert EncoderFiles.open(copy).encoder_id == encoder_id


def test_a_foreign_manifest_leads_no_file_out_of_the_copy(store, folder, tmp_path):
    encoder_id = registry.register(store, folder)
    key = registry.encoder_key(encoder_id)
    manifest = json.loads(store.get(key))
    for name in ("../../stolen", f"{tmp_path}/stolen"):
        manifest["files"][name] = {"sha256": "0" * 64, "bytes": 1}
        store.put(key, json.dumps(manifest).encode())
        with pytest.raises(UsageError, match="is no key"):
            registry.local_copy(store, encoder_id)
    assert not list(tmp_path.rglob("stolen"))


def test_ids_may_be_shortened_as_long_as_they_name_one(store, tmp_path):
    ids = [registry.register(store, tmp_path / str(n)) for n in (1, 2) if write_folder(tmp_path / str(n), n)]
    assert registry.find_encoder(store, ids[0]) == registry.find_encoder(store, ids[0][:4]) == ids[0]
    with pytest.raises(UsageError, match="at least 4"):
        registry.find_encoder(store, ids[0][:3])
    with pytest.raises(UsageError, match=f"no encoder none.* has {min(ids)}, {max(ids)}"):
        registry.find_encoder(store, "none")
    store.put(f"encoders/{ids[0][:8]}-other/encoder.json", b"{}")
    with pytest.raises(UsageError, match="beginning of 2 encoders"):
        registry.find_encoder(store, ids[0][:4])


def test_evaluations_come_oldest_first_and_the_same_name_replaces(store, folder):
    encoder_id = registry.register(store, folder)
    for name, value in (("b", 1), ("a", 2), ("b", 3)):
        registry.record_evaluation(store, encoder_id, name, {"value": value}, b"%d" % value)
    found = registry.evaluations(store, encoder_id)
    assert [(name, record["value"]) for name, record in found.items()] == [("a", 2), ("b", 3)]
    assert registry.evaluation_queries(store, encoder_id, "b") == b"3"
    assert registry.evaluation_queries(store, encoder_id, "c") is None
    assert registry.is_whole(store, encoder_id)


def test_an_evaluation_needs_its_encoder_and_a_plain_name(store, folder):
    with pytest.raises(UsageError, match="no encoder 1234"):
        registry.record_evaluation(store, "1234", "shop", {})
    encoder_id = registry.register(store, folder)
    with pytest.raises(UsageError, match="cannot name an evaluation"):
        registry.record_evaluation(store, encoder_id, "../current", {})
    store.put(f"encoders/{encoder_id}/evaluations/broken.json", b"{")
    with pytest.raises(IntegrityError, match="is no JSON"):
        registry.evaluations(store, encoder_id)


def test_a_run_adopts_where_it_may_and_undoes_no_promotion(store, folder, tmp_path):
    encoder_id = registry.wanted_encoder(store, folder, chosen=False)  # a new store: the exported one
    registry.adopt_encoder(store, folder, encoder_id, chosen=False)
    assert registry.current_encoder(store) == encoder_id
    other = write_folder(tmp_path / "other", 2)
    assert registry.wanted_encoder(store, tmp_path / "other", chosen=False) == encoder_id
    registry.adopt_encoder(store, tmp_path / "other", other, chosen=True)
    assert registry.current_encoder(store) == other
    # Another was promoted after this run had looked: it stays.
    registry.adopt_encoder(store, folder, encoder_id, chosen=False)
    assert registry.current_encoder(store) == other


@pytest.fixture
def candidate(store, folder, tmp_path):
    """A registered encoder beside the one that made the release in service, and that release's manifest."""
    old = write_folder(tmp_path / "old", 2)
    registry.adopt_encoder(store, tmp_path / "old", old, chosen=False)
    entry = EncoderEntry(old, 16, store.put_folder(tmp_path / "old"), {})
    manifest = publish_small(store, tmp_path / "built", encoder=entry)
    return registry.register(store, folder), manifest


def covered(manifest, **changed):
    whole = promotion.Coverage(manifest.release_id, manifest.items_version, "v1", 40, 40, 1, 0, "run", "2026-01-01")
    return dataclasses.replace(whole, **changed)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"finished": 39}, "39 of 40 contents have a finished row, all must"),
        ({"release_id": "r0"}, "looked at release r0, r1 serves now"),
        ({"items_version": "0"}, "looked at release r1, r1 serves now"),
    ],
)
def test_promotion_is_refused_until_all_that_serves_is_finished(store, candidate, changed, message):
    encoder_id, manifest = candidate
    with pytest.raises(RefusedError, match="no backfill with this encoder has ended"):
        promotion.promote(store, encoder_id, "current")
    promotion.write_coverage(store, encoder_id, covered(manifest, **changed))
    with pytest.raises(RefusedError, match=message) as error:
        promotion.promote(store, encoder_id, "current")
    assert f"run ./spark-submit.sh backfill --encoder {encoder_id}" in str(error.value)
    assert registry.current_encoder(store) == manifest.encoder.encoder_id


def test_a_covered_encoder_is_promoted_and_the_one_that_made_the_release_needs_no_cover(store, candidate):
    encoder_id, manifest = candidate
    old = manifest.encoder.encoder_id
    promotion.write_coverage(store, encoder_id, covered(manifest))
    assert promotion.promote(store, encoder_id, "current") == old
    assert registry.current_encoder(store) == encoder_id
    assert promotion.promote(store, encoder_id, "current") == encoder_id  # nothing to do
    assert promotion.promote(store, old, "candidate") == encoder_id  # an empty channel starts from current
    assert registry.current_encoder(store) == old


def test_a_forced_promotion_keeps_its_reason(store, candidate):
    encoder_id, _ = candidate
    with pytest.raises(RefusedError):
        promotion.promote(store, encoder_id, "current", force_reason="  ")
    promotion.promote(store, encoder_id, "current", force_reason="supplier 7 is gone")
    assert json.loads(store.get("encoders/current")) == {"encoder_id": encoder_id, "forced": "supplier 7 is gone"}
    assert registry.wanted_encoder(store, store.root, chosen=False) == encoder_id


def test_of_two_promotions_at_once_one_is_told(store, candidate, monkeypatch):
    encoder_id, manifest = candidate
    promotion.write_coverage(store, encoder_id, covered(manifest))
    monkeypatch.setattr(promotion, "check_covered", lambda *_: store.put(registry.CURRENT, registry.point_to("other")))
    with pytest.raises(ConflictError, match="changed by somebody else"):
        promotion.promote(store, encoder_id, "current")
    assert registry.current_encoder(store) == "other"


def test_what_is_not_whole_is_not_promoted(store, candidate):
    encoder_id, manifest = candidate
    promotion.write_coverage(store, encoder_id, covered(manifest))
    flip_bit(store.path(f"encoders/{encoder_id}/text.onnx"), 0)
    with pytest.raises(IntegrityError, match="is not whole"):
        promotion.promote(store, encoder_id, "current")


def test_a_card_tells_what_it_is_told():
    text = card({"kind": "unified", "dim": 256, "preprocessing": {"image": {"size": 160}, "text": {"max_tokens": 64}}})
    lines = text.render().splitlines()
    for line in (
        "| image.onnx | a network | MIT |",
        "| drawn shop | CC0-1.0 | 3,000 offers |",
        "Digest of the training data: `abc123`.",
        "| losses.margin | `0.2` |",
        "| direction | recall@1 | mrr |",
        "| m-m | 0.500 (0.400 to 0.600) | 0.600 |",
    ):
        assert line in lines
    assert lines[0].endswith("(unified)")
    assert "160 x 160 pixels" in text.render()
    bare = dataclasses.replace(text, training=(), settings={}, quality=()).render()
    assert "Nothing in it was trained or fitted by this project." in bare
    assert "## Settings" not in bare
