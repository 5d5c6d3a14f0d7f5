"""What indexes are asked when their recall is measured, from tables and shards; the driver holds sampled queries alone.

Fresh with every build: which ones are drawn depends on the digest of what the shards hold.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import reduce

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame, Row
from pyspark.sql import functions as F

from samestyle.evaluation.queries import CLICKED, HELD_OUT, PERTURBED, Queries
from samestyle.evaluation.recall import perturb
from samestyle.release.manifest import VIEWS, PlacedShard
from samestyle.settings import Evaluation
from samestyle.tables.members import node_key, with_vectors
from samestyle.tables.night import Night

WorkerFunction = Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]
SAMPLED = "index int, node_key string, category string, vector array<float>"


@dataclass
class Drawn:
    """Rows of one index. own: its vectors; held: those keys of foreign rows that it holds."""

    own: list[Row] = field(default_factory=list)
    held: set[str] = field(default_factory=set)


def draw_queries(
    night: Night,
    numbers: DataFrame,
    shards: list[PlacedShard],
    views: list[str],
    seeds: dict[int, int],
    sampler: Callable[..., WorkerFunction],
) -> dict[int, Queries]:
    """The queries of each index: up to a third each clicked items and held-out contents, the others perturbed.

    views, seeds: by index. numbers: see indexes.shard_numbers.
    """
    evaluation = night.settings.evaluation
    foreign = foreign_rows(night, evaluation.queries // 3, sum(seeds.values()) % 2**62)
    keys = {n: [r[f"{v}_key"] for r in foreign if r["kind"] == HELD_OUT and r[f"{v}_key"]] for n, v in enumerate(views)}
    drawn = {index: Drawn() for index in range(len(views))}
    sample = sampler(shards, night.store, evaluation.queries, seeds, keys)
    for row in numbers.mapInArrow(sample, SAMPLED).collect():
        if row["vector"] is None:
            drawn[row["index"]].held.add(row["node_key"])
        else:
            drawn[row["index"]].own.append(row)
    return {n: mixed(drawn[n], foreign, view, evaluation, seeds[n]) for n, view in enumerate(views)}


def foreign_rows(night: Night, most: int, seed: int) -> list[Row]:
    """At most `most` clicked items; as many contents that no item has tonight, and as many that one has, which some
    indexes may not hold: kind, category, and for each view `<view>_key` and `<view>_vector`, null where there is none.
    """
    if most == 0:
        return []
    items, clicks = night.items().where("content_key is not null"), night.clicks()
    serving = items.select("item_id", "content_key", "served_at", "category")
    attempts = night.embeddings().where("fused_vector is not null")
    absent = attempts.join(serving.select("content_key"), "content_key", "left_anti").select(
        F.col("content_key").alias("item_id"), "content_key", F.col("embedded_at").alias("served_at"),
        F.lit(None).cast("string").alias("category"),
    )  # fmt: skip
    pools = [(HELD_OUT, absent), (HELD_OUT, serving)]
    if clicks is not None:
        pools.append((CLICKED, serving.join(clicks.select("item_id").distinct(), "item_id", "left_semi")))
    order = F.xxhash64("item_id", F.lit(seed))
    drawn = [pool.orderBy(order, "item_id").limit(most).withColumn("kind", F.lit(kind)) for kind, pool in pools]
    rows = with_vectors(F.broadcast(reduce(DataFrame.unionByName, drawn)), night.embeddings())
    named = rows.withColumns({f"has_{view}_vector": F.col(f"{view}_vector").isNotNull() for view in VIEWS})
    keys = [F.when(F.col(f"has_{view}_vector"), node_key(view)).alias(f"{view}_key") for view in VIEWS]
    columns = ("kind", "category", *(f"{view}_vector" for view in VIEWS))
    return named.orderBy("kind", order, "item_id").select(*columns, *keys).collect()


def mixed(drawn: Drawn, foreign: list[Row], view: str, evaluation: Evaluation, seed: int) -> Queries:
    """The queries of one index; perturbed ones fill up what the other kinds leave."""
    most, chosen = evaluation.queries // 3, dict[tuple[str, str], Row]()
    for row in foreign:
        key = row["kind"], row[f"{view}_key"]
        room = sum(kind == row["kind"] for kind, _ in chosen) < most
        if key[1] and room and not (row["kind"] == HELD_OUT and key[1] in drawn.held):
            chosen.setdefault(key, row)
    places = np.random.default_rng(seed).permutation(len(drawn.own))[: evaluation.queries - len(chosen)]
    own = [drawn.own[place] for place in sorted(places)]
    moved = perturb(np.array([row["vector"] for row in own], np.float32), evaluation.perturbation, seed)
    others = list(chosen.values())
    return Queries(
        np.vstack([moved, *[np.array(row[f"{view}_vector"], np.float32)[None] for row in others]]),
        (*[PERTURBED] * len(own), *[row["kind"] for row in others]),
        tuple(row["category"] for row in (*own, *others)),
    )
