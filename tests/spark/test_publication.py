"""What publishing asks of Spark: new objects are read back by executors, and neighbours compared with the parent's."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
from releases import flip_bit, make_manifest, publish_small, small_catalogue

from samestyle.errors import IntegrityError
from samestyle.release.gate import failures, run_gate
from samestyle.release.manifest import Probes
from samestyle.release.store import LocalStore
from samestyle.settings import Gate, Neighbours
from samestyle.tables.drift import neighbour_probes
from samestyle.tables.publication import verify_new
from samestyle.tables.schemas import NEIGHBOURS
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
    store.delete(second.graph.key)
    with pytest.raises(IntegrityError, match="release r2 is damaged in 2 of 5 objects") as told:
        verify_new(night, manifest, object_verifier)
    assert f"{first.graph.key} has sha256" in str(told.value)
    assert f"{second.graph.key} is missing" in str(told.value)


def test_neighbours_that_came_from_other_vectors_are_refused(spark, tmp_path):
    """Ten items list each other; the night after lists the same ones, or those of rows that were mixed up."""
    parent = publish_small(LocalStore(tmp_path / "store"), tmp_path / "built", "r1")
    lists = {n: [(n + step) % 10 for step in (1, 2, 3)] for n in range(10)}
    mixed = {n: [(n + step) % 10 for step in (4, 5, 6)] for n in range(10)}
    assert refused_by_neighbours(spark, parent, lists, lists) == []
    assert refused_by_neighbours(spark, parent, lists, mixed) == ["neighbours search"]


def refused_by_neighbours(spark, parent, before, now) -> list[str]:
    rows = [
        ("search", f"i{n}", "similar", rank, f"i{other}", 0.9, release)
        for release, lists in (("r1", before), ("r2", now))
        for n, others in lists.items()
        for rank, other in enumerate(others)
    ]
    listed = spark.createDataFrame(rows, NEIGHBOURS)
    items = spark.createDataFrame([(f"i{n}", "content") for n in range(10)], "item_id string, content_key string")
    limits = Gate()
    night = SimpleNamespace(
        parent=parent,
        release_id="r2",
        same_encoder=lambda: True,
        items=lambda: items,
        warehouse=SimpleNamespace(neighbours=SimpleNamespace(read=lambda: listed)),
        settings=SimpleNamespace(gate=limits, neighbours=Neighbours()),
    )
    manifest = replace(parent, probes=Probes(neighbours=tuple(neighbour_probes(night))))
    return [result.rule for result in failures(run_gate(manifest, parent, limits))]
