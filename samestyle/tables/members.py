"""From items and embeddings to rows of shards: which node stands for which items, in which shard, at which label.

All indexes of a night go through together: one pass over the items, one Spark job to build every shard, so that a small
index does not wait for a large one.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pyspark.errors import PySparkException
from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F
from pyspark.sql.types import StructType

from samestyle.errors import UsageError
from samestyle.release.manifest import VIEWS
from samestyle.tables.modules import IndexTask

ITEM_COLUMNS = ("item_id", "supplier_id", "category", "attributes")


@dataclass(frozen=True)
class ShardRange:
    """The shards of one key of one index: `count` of them, numbered over all indexes of the night from `first` on."""

    index: int
    key: str
    first: int
    count: int


def index_rows(
    items: DataFrame, embeddings: DataFrame, tasks: Sequence[IndexTask], clicks: DataFrame | None
) -> DataFrame:
    """One row an item and index that it belongs to: index (its number in `tasks`), key, node_key, vector, item columns.

    Raises UsageError where a module's filter cannot be evaluated.
    """
    served = with_vectors(with_attributes(items.where("content_key is not null")), embeddings)
    if clicks is not None:
        clicked = clicks.join(items, "item_id").select("category", F.lit(True).alias("is_clicked")).distinct()
        served = served.join(F.broadcast(clicked), "category", "left")
    entries = [entry(served, number, task) for number, task in enumerate(tasks)]
    exploded = F.explode(F.filter(F.array(*entries), lambda one: one.isNotNull()))
    columns = ["content_key", "served_at", *ITEM_COLUMNS]
    return served.select(*columns, exploded.alias("entry")).select(*columns, "entry.*")


def with_vectors(items: DataFrame, embeddings: DataFrame) -> DataFrame:
    """Items with the attempt that serves them: its vectors, and what they were made of."""
    attempts = embeddings.select(
        "content_key",
        F.col("embedded_at").alias("served_at"),
        "title_hash",
        "image_digest",
        *[f"{view}_vector" for view in VIEWS],
    )
    return items.join(attempts, ["content_key", "served_at"])


def with_attributes(items: DataFrame) -> DataFrame:
    """Items with each attribute as a column beside them, so that a filter may name it."""
    inner = [name for name in attribute_names(items) if name not in items.columns]
    return items.select("*", *[F.col(f"attributes.`{name}`").alias(name) for name in inner])


def attribute_names(items: DataFrame) -> list[str]:
    kind = items.schema["attributes"].dataType
    return kind.fieldNames() if isinstance(kind, StructType) else []


def entry(served: DataFrame, number: int, task: IndexTask) -> Column:
    """The item's place in one index, null where it has none."""
    vector = F.col(f"{task.view}_vector")
    belongs = vector.isNotNull()
    if task.where is not None:
        belongs = belongs & checked_filter(served, task)
    if task.module.scope == "clicked_categories":
        belongs = belongs & F.col("is_clicked")
    key = F.col("category") if task.module.shard_by == "category" else F.lit("")
    place = F.struct(
        F.lit(number).alias("index"),
        F.coalesce(key, F.lit("")).alias("key"),
        node_key(task.view).alias("node_key"),
        vector.alias("vector"),
    )
    return F.when(belongs, place)


def checked_filter(served: DataFrame, task: IndexTask) -> Column:
    condition = F.expr(f"({task.where})")
    try:
        served.where(condition)
    except PySparkException as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"modules.{task.name}.where is {task.where!r}: {reason}") from error
    return condition


def node_key(view: str) -> Column:
    """Digest of what was really encoded, so that one photo under two URIs is one node."""
    image = F.when(F.col("image_vector").isNotNull(), F.col("image_digest"))
    title = F.when(F.col("text_vector").isNotNull(), F.col("title_hash"))
    both = F.sha2(F.concat_ws("|", F.coalesce(title, F.lit("")), F.coalesce(image, F.lit(""))), 256)
    return {"image": image, "text": title, "fused": both}[view]


def plan_shards(rows: DataFrame, tasks: Sequence[IndexTask]) -> list[ShardRange]:
    """How many shards each index and key needs. Collects one row an index and key, not a node."""
    counts = rows.groupBy("index", "key").agg(F.count_distinct("node_key").alias("nodes")).collect()
    ranges, first = [], 0
    for row in sorted(counts, key=lambda row: (row["index"], row["key"])):
        count = math.ceil(row["nodes"] / tasks[row["index"]].module.shard_rows)
        ranges.append(ShardRange(row["index"], row["key"], first, count))
        first += count
    return ranges


def shard_rows(rows: DataFrame, ranges: list[ShardRange], seed: int) -> DataFrame:
    """What shards are built from, a row an item: shard, label, and what build_shard takes.

    A node goes to a shard of its key by its hash; labels follow a seeded hash, because a graph whose vectors are
    inserted cluster by cluster, as category-sorted tables are, loses vectors. `vector` stands on a label's first row.
    """
    nodes = rows.groupBy("index", "key", "node_key").agg(
        F.min_by("vector", F.struct("served_at", "content_key")).alias("vector")
    )
    shuffled = Window.partitionBy("shard").orderBy(F.xxhash64("node_key", F.lit(seed)), "node_key")
    label = (F.row_number().over(shuffled) - 1).cast("long")
    labelled = with_shard(nodes, ranges).withColumn("label", label)
    first = F.row_number().over(Window.partitionBy("shard", "label").orderBy("item_id")) == 1
    joined = rows.drop("vector").join(labelled, ["index", "key", "node_key"])
    return joined.select(
        "shard",
        "label",
        "node_key",
        "item_id",
        F.lit(True).alias("alive"),
        "supplier_id",
        "category",
        "attributes",
        F.when(first, F.col("vector")).alias("vector"),
    )


def with_shard(nodes: DataFrame, ranges: list[ShardRange]) -> DataFrame:
    """Adds a node's shard: the first one of its key plus its hash, spread over that key's shards."""
    rows = [(part.index, part.key, part.first, part.count) for part in ranges]
    table = nodes.sparkSession.createDataFrame(rows, "index int, key string, first int, count int")
    spread = F.col("first") + F.pmod(F.xxhash64("node_key"), F.col("count"))
    joined = nodes.join(F.broadcast(table), ["index", "key"])
    return joined.withColumn("shard", spread.cast("int")).drop("first", "count")
