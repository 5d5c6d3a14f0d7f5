"""Executors read back what is new in a release, before its manifest is written."""

from types import SimpleNamespace

import pytest
from releases import flip_bit, make_manifest, publish_small, small_catalogue

from samestyle.errors import IntegrityError
from samestyle.release.store import LocalStore
from samestyle.tables.publication import verify_new
from udfs.verification import object_verifier


def test_new_objects_are_read_back_by_executors(spark, tmp_path):
    store, built = LocalStore(tmp_path / "store"), tmp_path / "built"
    parent = publish_small(store, built, "r1")
    manifest = make_manifest(store, built, "r2", "r1", small_catalogue(seed=3))
    night = SimpleNamespace(spark=spark, store=store, parent=parent)
    verify_new(night, manifest, object_verifier)
    old, first, second = (
        release.indexes[0].shards[place] for release, place in ((parent, 0), (manifest, 0), (manifest, 1))
    )
    flip_bit(store.path(old.graph.key), 1000)  # what the parent has was read when it was published
    verify_new(night, manifest, object_verifier)
    flip_bit(store.path(first.graph.key), 1000)
    store.delete(second.items_file.key)
    with pytest.raises(IntegrityError, match="release r2 is damaged in 2 of 5 objects") as told:
        verify_new(night, manifest, object_verifier)
    assert f"{first.graph.key} has sha256" in str(told.value)
    assert f"{second.items_file.key} is missing" in str(told.value)
