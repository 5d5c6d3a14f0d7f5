"""Measure and search indexes on executors; the driver sees one small row a shard or a sampled query.

The functions that workers run come from udfs/ and are handed in, because this room knows nothing of udfs.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from samestyle.evaluation.queries import Measurement, Queries, query_seed
from samestyle.evaluation.recall import EXACT, Proportion, proportion, recalls
from samestyle.evaluation.retrieval import style_at_1
from samestyle.index.candidates import Reach
from samestyle.release.manifest import PlacedShard, Shard, data_digest, decode
from samestyle.tables.members import with_vectors
from samestyle.tables.modules import whole_catalogue
from samestyle.tables.night import Night
from samestyle.tables.queries import draw_queries
from samestyle.tables.versions import repartition_by_id

WorkerFunction = Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]
Record = dict[str, Any]
MEASURED = "shard int, index int, query int, ef int, scores array<float>, recall double, compared long"
# first: the first item of its node, so that nodes can be counted.
CANDIDATES = """
    index int, query_id string, item_id string, node_key string, supplier_id string, category string, score float,
    first boolean
"""
MEMBERS = "index int, item_id string, node_key string, supplier_id string, category string"


def search_shards(records: list[Record]) -> list[PlacedShard]:
    """The shards of all these indexes; an index is named by its place among the records."""
    return [
        PlacedShard(index, decode(Shard, shard, f"shard {shard['shard']}"), record["dim"])
        for index, record in enumerate(records)
        for shard in record["shards"]
    ]


def shard_numbers(night: Night, shards: list[PlacedShard]) -> DataFrame:
    """shard (its place in the list) and index, each row in a partition of its own, so that each shard is one task."""
    rows = night.spark.createDataFrame([(n, s.index) for n, s in enumerate(shards)], "shard int, index int")
    return repartition_by_id(rows, len(shards), "shard")


def measure_recall(
    night: Night,
    records: list[Record],
    sampler: Callable[..., WorkerFunction],
    measurer: Callable[..., WorkerFunction],
) -> list[Measurement]:
    """recall@k of each index at each ef_search of the settings, against exact search over all its shards."""
    evaluation, efs = night.settings.evaluation, night.settings.index.ef_search
    shards = search_shards(records)
    if not shards:
        return []
    digests = [data_digest(one.shard for one in shards if one.index == n) for n in range(len(records))]
    seeds = {n: query_seed(data, night.settings.index.seed) for n, data in enumerate(digests)}
    numbers, views = shard_numbers(night, shards), [record["view"] for record in records]
    queries = draw_queries(night, numbers, shards, views, seeds, sampler)
    measured = numbers.mapInArrow(measurer(shards, night.store, queries, evaluation.k, efs), MEASURED).persist()
    try:
        merged, alone = merged_recalls(measured, queries, evaluation.k, efs), shard_means(measured, shards)
    finally:
        measured.unpersist()
    return [Measurement(data, queries[n], merged[n], *alone[n]) for n, data in enumerate(digests)]


def merged_recalls(
    measured: DataFrame, queries: dict[int, Queries], k: int, efs: tuple[int, ...]
) -> dict[int, dict[int, np.ndarray]]:
    """Index -> ef -> recall of each query over all shards together. measured: see MEASURED."""
    best = F.slice(F.sort_array(F.flatten(F.collect_list("scores")), asc=False), 1, k)
    merged = measured.groupBy("index", "query", "ef").agg(best.alias("scores")).collect()
    found = {(n, ef): np.full((len(asked), k), -np.inf) for n, asked in queries.items() for ef in (EXACT, *efs)}
    for row in merged:
        found[row["index"], row["ef"]][row["query"], : len(row["scores"])] = row["scores"]
    return {n: {ef: recalls(found[n, ef], found[n, EXACT]) for ef in efs} for n in queries}


def shard_means(
    measured: DataFrame, shards: list[PlacedShard]
) -> dict[int, tuple[dict[int, dict[int, float]], dict[int, float]]]:
    """Index -> (ef -> shard number -> mean recall of its own k best, ef -> vectors compared with a query in all).

    measured: see MEASURED.
    """
    means = measured.where(F.col("ef") != EXACT).groupBy("shard", "ef").agg(F.avg("recall"), F.avg("compared"))
    found: dict[int, tuple[dict[int, dict[int, float]], dict[int, float]]] = {}
    for place, ef, recall, compared in means.orderBy("shard", "ef").collect():
        one = shards[place]
        recalls_of, compared_of = found.setdefault(one.index, ({}, {}))
        recalls_of.setdefault(ef, {})[one.shard.shard] = recall
        compared_of[ef] = compared_of.get(ef, 0.0) + compared
    return found


def find_candidates(
    night: Night,
    records: list[Record],
    queries: DataFrame,
    reaches: list[Reach],
    finder: Callable[..., WorkerFunction],
) -> DataFrame:
    """The items of each query's nodes in every shard of its index, its own among them; see CANDIDATES.

    queries: index, query_id, vector. reaches: one an index. Every shard is one task, opened once.
    """
    shards = search_shards(records)
    numbers = night.spark.createDataFrame([(n, s.index) for n, s in enumerate(shards)], "shard int, index int")
    pairs = repartition_by_id(queries.join(F.broadcast(numbers), "index"), len(shards), "shard")
    return pairs.select("shard", "query_id", "vector").mapInArrow(finder(shards, night.store, reaches), CANDIDATES)


def index_members(night: Night, shards: list[PlacedShard], reader: Callable[..., WorkerFunction]) -> DataFrame:
    """The items that these shards serve; see MEMBERS."""
    if not shards:
        return night.spark.createDataFrame([], MEMBERS)
    return shard_numbers(night, shards).mapInArrow(reader(shards, night.store), MEMBERS)


def style_recall(night: Night, records: list[Record], finder: Callable[..., WorkerFunction]) -> dict[str, Proportion]:
    """Same-style R@1 by view over sampled items, by exact search in the first module that covers the catalogue.

    Empty where no style column is mapped. Queries without a match in the catalogue are left out.
    """
    whole = whole_catalogue(night.settings)
    wanted = [r for r in records if r["module"] == whole and r["view"] in ("image", "fused")]
    if "style_group" not in night.run.required("embed")["mapped"] or not wanted:
        return {}
    styles = night.items().where("content_key is not null and style_group is not null")
    queries = style_queries(night, styles, [record["view"] for record in wanted]).persist()
    reaches = [Reach(nodes=3, ef=None)] * len(wanted)  # the query's own node and two more
    found = find_candidates(night, wanted, queries.select("index", "query_id", "vector"), reaches, finder)
    found = found.where("item_id != query_id")
    named = found.join(styles.select("item_id", "style_group"), "item_id", "left").join(
        queries.select("index", "query_id", "wanted"), ["index", "query_id"]
    )
    same = F.coalesce(F.col("style_group") == F.col("wanted"), F.lit(False))
    grouped = named.groupBy("index", "query_id").agg(
        F.collect_list("score").alias("scores"), F.collect_list(same).alias("same")
    )
    answers = grouped.collect()
    queries.unpersist()
    shares = {
        record["view"]: proportion([style_at_1(a["scores"], a["same"]) for a in answers if a["index"] == index])
        for index, record in enumerate(wanted)
    }
    return {view: share for view, share in shares.items() if share.queries}


def style_queries(night: Night, styles: DataFrame, views: list[str]) -> DataFrame:
    """index (of the view), query_id, vector, wanted (style): items that share their style with another one."""
    shared = styles.groupBy("style_group").count().where("count > 1").select("style_group")
    order = F.xxhash64("item_id", F.lit(night.settings.index.seed))
    sampled = styles.join(shared, "style_group").orderBy(order, "item_id").limit(night.settings.evaluation.queries)
    places = [
        F.struct(F.lit(index).alias("index"), F.col(f"{view}_vector").alias("vector"))
        for index, view in enumerate(views)
    ]
    rows = with_vectors(sampled, night.embeddings()).select(
        F.col("item_id").alias("query_id"),
        F.col("style_group").alias("wanted"),
        F.explode(F.array(*places)).alias("place"),
    )
    return rows.select("query_id", "wanted", "place.*").where("vector is not null")
