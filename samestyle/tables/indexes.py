"""Build, measure and search indexes on executors; the driver sees one small row a shard or a sampled query.

The functions that workers run come from udfs/ and are handed in, because this room knows nothing of udfs.
"""

import json
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from samestyle.evaluation.recall import EXACT, Proportion, perturb, proportion, recalls
from samestyle.evaluation.retrieval import style_at_1
from samestyle.index.nodes import GraphParameters
from samestyle.progress import say
from samestyle.release.manifest import Shard, decode
from samestyle.tables.members import module_items, plan_shards, shard_rows, view_members
from samestyle.tables.modules import IndexTask
from samestyle.tables.night import Night

WorkerFunction = Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]
BUILT = "shard int, record string"
SAMPLED = "vector array<float>"
MEASURED = "query int, ef int, scores array<float>"
CANDIDATES = "query_id string, item_id string, supplier_id string, category string, score float"


def build_index(night: Night, task: IndexTask, builder: Callable[..., WorkerFunction]) -> dict[str, Any]:
    """Build all shards of one index; returns its record, whose `shards` are empty where no item has the view."""
    settings, module = night.settings, task.module
    items = module_items(night.items(), task.name, module, night.clicks(), task.where)
    members = view_members(items, night.embeddings(), task.view)
    plan = plan_shards(members, module)
    graph = GraphParameters(
        night.encoder.load().dim,
        module.m,
        module.ef_construction,
        settings.index.seed,
        settings.index.add_rows,
    )
    rows = shard_rows(members, module, plan, settings.index.seed)
    nodes = {r["shard"]: r["nodes"] for r in rows.groupBy("shard").agg((F.max("label") + 1).alias("nodes")).collect()}
    shards = []
    if nodes:
        # By id: a hash of the shard number would put several shards into one task.
        parted = rows.repartitionById(plan.shards, F.col("shard")).sortWithinPartitions("shard", "label", "item_id")
        built = parted.mapInArrow(builder(graph, nodes, night.store), BUILT).collect()
        keys = plan.shard_keys()
        shards = [shard_record(r["shard"], keys[r["shard"]], json.loads(r["record"])) for r in built]
    say(f"built {task.label}: {sum(nodes.values()):,} nodes in {len(shards)} shards")
    return {
        "module": task.name,
        "view": task.view,
        "dim": graph.dim,
        "m": graph.m,
        "ef_construction": graph.ef_construction,
        "shard_by": module.shard_by,
        "where": task.where,
        "shards": sorted(shards, key=lambda shard: shard["shard"]),
    }


def shard_record(shard: int, key: str | None, built: dict[str, Any]) -> dict[str, Any]:
    """What the manifest will say of a shard. All shards are built anew each night: nothing is dead or frozen yet."""
    kept = {
        name: built[name] for name in ("graph", "items_file", "nodes", "items", "seed", "insertion_digest", "orphans")
    }
    return {"shard": shard, "key": key, "dead_share": 0.0, "frozen": False} | kept


def shards_of(record: dict[str, Any]) -> dict[int, Shard]:
    return {shard["shard"]: decode(Shard, shard, f"shard {shard['shard']}") for shard in record["shards"]}


def shard_numbers(spark: SparkSession, shards: dict[int, Shard]) -> DataFrame:
    """One row a shard, each in a partition of its own, so that each shard is one task."""
    rows = spark.createDataFrame([(number,) for number in shards], "shard int")
    return rows.repartitionById(len(shards), F.col("shard"))


def measure_recall(
    night: Night,
    record: dict[str, Any],
    sampler: Callable[..., WorkerFunction],
    measurer: Callable[..., WorkerFunction],
) -> dict[int, Proportion]:
    """recall@k of one index at each ef_search of the settings, against exact search over all its shards."""
    evaluation, efs = night.settings.evaluation, night.settings.index.ef_search
    shards, seed = shards_of(record), night.settings.index.seed
    numbers = shard_numbers(night.spark, shards)
    sampled = numbers.mapInArrow(sampler(shards, night.store, record["dim"], evaluation.queries, seed), SAMPLED)
    vectors = np.array([row["vector"] for row in sampled.collect()], dtype=np.float32)
    queries = perturb(vectors, evaluation.perturbation, seed)
    measured = numbers.mapInArrow(measurer(shards, night.store, record["dim"], queries, evaluation.k, efs), MEASURED)
    merged = measured.groupBy("query", "ef").agg(
        F.slice(F.sort_array(F.flatten(F.collect_list("scores")), asc=False), 1, evaluation.k).alias("scores")
    )
    found = {ef: np.full((len(queries), evaluation.k), -np.inf, np.float32) for ef in (EXACT, *efs)}
    for row in merged.collect():
        found[row["ef"]][row["query"], : len(row["scores"])] = row["scores"]
    return {ef: proportion(recalls(found[ef], found[EXACT])) for ef in efs}


def find_candidates(
    night: Night,
    record: dict[str, Any],
    queries: DataFrame,
    k: int,
    ef: int | None,
    finder: Callable[..., WorkerFunction],
) -> DataFrame:
    """The items of the k best nodes of every shard, for each query (columns query_id, vector); see CANDIDATES.

    Every shard is one task, which opens it once. ef None: exact search.
    """
    shards = shards_of(record)
    numbers = night.spark.createDataFrame([(number,) for number in shards], "shard int")
    pairs = queries.crossJoin(F.broadcast(numbers)).repartitionById(len(shards), F.col("shard"))
    return pairs.mapInArrow(finder(shards, night.store, record["dim"], k, ef), CANDIDATES)


def style_recall(
    night: Night, records: list[dict[str, Any]], finder: Callable[..., WorkerFunction]
) -> dict[str, Proportion]:
    """Same-style R@1 by view over sampled items, by exact search in the first module that covers the catalogue.

    Empty where no style column is mapped. Queries without a match in the index are left out.
    """
    if "style_group" not in night.run.required("embed")["mapped"]:
        return {}
    styles = night.items().where("content_key is not null and style_group is not null")
    module = next(
        (name for name, m in night.settings.modules.items() if m.scope == "catalogue" and m.where is None),
        None,
    )
    wanted = [r for r in records if r["module"] == module and r["view"] in ("image", "fused")]
    return {record["view"]: style_recall_of(night, record, styles, finder) for record in wanted}


def style_recall_of(
    night: Night, record: dict[str, Any], styles: DataFrame, finder: Callable[..., WorkerFunction]
) -> Proportion:
    members = view_members(styles, night.embeddings(), record["view"]).join(
        styles.select("item_id", "style_group"), "item_id"
    )
    shared = members.groupBy("style_group").count().where("count > 1").select("style_group")
    order = F.xxhash64("item_id", F.lit(night.settings.index.seed))
    queries = members.join(shared, "style_group").orderBy(order, "item_id").limit(night.settings.evaluation.queries)
    queries = queries.select(F.col("item_id").alias("query_id"), "vector", F.col("style_group").alias("wanted"))
    found = find_candidates(night, record, queries.select("query_id", "vector"), 2, None, finder)
    named = found.join(styles.select("item_id", "style_group"), "item_id", "left").join(
        queries.select("query_id", "wanted"), "query_id"
    )
    answers = named.groupBy("query_id").agg(
        F.collect_list("score").alias("scores"),
        F.collect_list(F.coalesce(F.col("style_group") == F.col("wanted"), F.lit(False))).alias("same"),
    )
    return proportion([style_at_1(row["scores"], row["same"]) for row in answers.collect()])
