"""How a night differs from its parent, over a fixed sample of the items: their vectors, and their neighbours."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from samestyle.encoder.registry import evaluations
from samestyle.release.manifest import VIEWS, NeighbourProbe, Probes, QualityProbe, VectorProbe
from samestyle.release.store import Store
from samestyle.tables.members import with_vectors
from samestyle.tables.night import Night

UNIT = 1e-3
# The sample is the items with the smallest hash of id and this: the same ones night after night.
SEED = 20
METRIC = "recall@1"
PAIR = ("module", "item_id", "neighbour_id")


def measure_drift(night: Night) -> Probes:
    """The driver sees at most `gate.probes` items, with their vectors of tonight and of the parent."""
    quality = tuple(quality_probes(night.store, night.parent.encoder.encoder_id, night.encoder.encoder_id)
                    if night.parent else ())  # fmt: skip
    if night.settings.gate.probes == 0:
        return Probes(quality=quality)
    return Probes(tuple(vector_probes(night)), tuple(neighbour_probes(night)), quality)


def serving(items: DataFrame) -> DataFrame:
    """The ids of those that are served."""
    return items.where("content_key is not null").select("item_id")


def vector_probes(night: Night) -> Iterator[VectorProbe]:
    """One a view. Against the parent's vectors of the same items, where it was made by the same encoder."""
    before = night.baseline() if night.parent and night.same_encoder() else None
    known = serving(night.items())
    if before is not None:
        known = known.join(serving(before), "item_id", "left_semi")
    probes = known.orderBy(F.xxhash64("item_id", F.lit(SEED)), "item_id").limit(night.settings.gate.probes)
    ids = [row["item_id"] for row in probes.collect()]  # so that they are drawn once
    now = sampled_vectors(night, night.items(), ids)
    then = sampled_vectors(night, before, ids) if before is not None else {}
    for view in VIEWS:
        yield vector_probe(view, *matched(now, then if before is not None else None, view))


def sampled_vectors(night: Night, items: DataFrame, ids: list[str]) -> dict[str, dict[str, Any]]:
    """Item id -> view -> vector."""
    columns = [f"{view}_vector" for view in VIEWS]
    rows = with_vectors(items.where(F.col("item_id").isin(ids)), night.embeddings()).select("item_id", *columns)
    return {row["item_id"]: {view: row[f"{view}_vector"] for view in VIEWS} for row in rows.collect()}


def matched(
    now: dict[str, dict[str, Any]], then: dict[str, dict[str, Any]] | None, view: str
) -> tuple[np.ndarray, np.ndarray | None]:
    """(items, dim) float64 of tonight, and of the parent; rows of the same items, those that have the view in both."""
    ids = [item for item in sorted(now) if now[item][view] and (then is None or then.get(item, {}).get(view))]
    after = np.array([now[item][view] for item in ids], np.float64)
    return after, None if then is None else np.array([then[item][view] for item in ids], np.float64)


def vector_probe(view: str, now: np.ndarray, then: np.ndarray | None) -> VectorProbe:
    """now, then: (items, dim). NaN counts as bad, and not into the means."""
    if len(now) == 0:
        return VectorProbe(view, 0, 0)
    lengths = np.linalg.norm(now, axis=1)
    bad = int(np.count_nonzero(~(np.abs(lengths - 1) < UNIT)))
    if then is None:
        return VectorProbe(view, len(now), bad)
    finite = np.isfinite(now).all(axis=1) & np.isfinite(then).all(axis=1)
    now, then = now[finite], then[finite]
    if len(now) == 0:
        return VectorProbe(view, len(lengths), bad)
    shift = float(np.linalg.norm(now.mean(axis=0) - then.mean(axis=0)))
    norm = float(abs(np.linalg.norm(now, axis=1).mean() - np.linalg.norm(then, axis=1).mean()))
    return VectorProbe(view, len(lengths), bad, shift, norm)


def neighbour_probes(night: Night) -> Iterator[NeighbourProbe]:
    """One a module that the parent lists neighbours of, where both were made by the same encoder."""
    if night.parent is None or not night.same_encoder():
        return
    rows = night.warehouse.neighbours.read().where(F.col("rank") <= night.settings.neighbours.k)
    old = rows.where(F.col("release_id") == night.parent.release_id).select(*PAIR)
    new = rows.where(F.col("release_id") == night.release_id).select(*PAIR)
    there = serving(night.items()).withColumnRenamed("item_id", "neighbour_id")
    by_hash = Window.partitionBy("module").orderBy(F.xxhash64("item_id", F.lit(SEED)), "item_id")
    listed = old.select(*PAIR[:2]).intersect(new.select(*PAIR[:2])).withColumn("place", F.row_number().over(by_hash))
    probes = listed.where(F.col("place") <= night.settings.gate.probes)
    wanted = old.join(probes, list(PAIR[:2]), "left_semi").join(there, "neighbour_id", "left_semi")
    found = wanted.join(new.withColumn("again", F.lit(1)), list(PAIR), "left").groupBy("module")
    counted = found.agg(
        F.countDistinct("item_id").alias("items"), F.count("*").alias("wanted"), F.count("again").alias("again")
    ).collect()
    by_module = {row["module"]: row for row in counted}
    for module in night.parent.modules():
        if module in by_module:
            row = by_module[module]
            yield NeighbourProbe(module, row["items"], row["wanted"], row["again"] / row["wanted"])


def quality_probes(store: Store, before: str, after: str) -> Iterator[QualityProbe]:
    """One a direction of the latest evaluation that both encoders have; nothing where it is the same encoder."""
    if before == after:
        return
    first, second = evaluations(store, before), evaluations(store, after)
    common = [name for name in second if name in first]
    if not common:
        return
    old, new = first[common[-1]].get("mean", {}), second[common[-1]].get("mean", {})
    for direction in sorted(old.keys() & new.keys()):
        if METRIC in old[direction] and METRIC in new[direction]:
            yield QualityProbe(common[-1], direction, old[direction][METRIC], new[direction][METRIC])
