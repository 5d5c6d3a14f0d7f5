"""From items and embeddings to rows of shards: which node stands for which items, in which shard, at which label."""

import math
from dataclasses import dataclass

from pyspark.errors import PySparkException
from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F
from pyspark.sql.types import StructType

from samestyle.errors import UsageError
from samestyle.settings import Module

VIEWS = ("image", "text", "fused")


@dataclass(frozen=True)
class ShardPlan:
    """The shards of one module and view: (key, number of shards), where key is null or a leaf category."""

    nodes: int
    parts: tuple[tuple[str | None, int], ...]

    @property
    def shards(self) -> int:
        return sum(count for _, count in self.parts)

    def shard_keys(self) -> list[str | None]:
        """The key of each shard, by its number."""
        return [key for key, count in self.parts for _ in range(count)]


def module_items(items: DataFrame, name: str, module: Module, clicks: DataFrame | None, where: str | None) -> DataFrame:
    """The items that a module may show: those that have vectors, pass its filter and lie within its scope."""
    served = with_attributes(items.where("content_key is not null"))
    if where is not None:
        try:
            served = served.where(where)
        except PySparkException as error:
            reason = str(error).splitlines()[0]
            raise UsageError(f"modules.{name}.where is {where!r}: {reason}") from error
    if module.scope == "clicked_categories":
        if clicks is None:
            raise UsageError(f"modules.{name}.scope needs a click log: set clicks.path or clicks.table")
        clicked = clicks.join(items, "item_id").select("category").distinct()
        served = served.join(F.broadcast(clicked), "category", "left_semi")
    return served.select(*items.columns)


def with_attributes(items: DataFrame) -> DataFrame:
    """Items with each attribute as a column beside them, so that a filter may name it."""
    inner = [name for name in attribute_names(items) if name not in items.columns]
    return items.select("*", *[F.col(f"attributes.`{name}`").alias(name) for name in inner])


def attribute_names(items: DataFrame) -> list[str]:
    kind = items.schema["attributes"].dataType
    return kind.fieldNames() if isinstance(kind, StructType) else []


def view_members(items: DataFrame, embeddings: DataFrame, view: str) -> DataFrame:
    """One row an item that has this view: the item's columns, `node_key`, `vector`, `embedded_at`."""
    vectors = embeddings.select(
        "content_key",
        F.col("embedded_at").alias("served_at"),
        node_key(view).alias("node_key"),
        F.col(f"{view}_vector").alias("vector"),
    ).where("vector is not null")
    columns = ["item_id", "content_key", "supplier_id", "category", "attributes", "served_at"]
    return items.select(*columns).join(vectors, ["content_key", "served_at"])


def node_key(view: str) -> Column:
    """Digest of what was really encoded, so that one photo under two URIs is one node."""
    image = F.when(F.col("image_vector").isNotNull(), F.col("image_digest"))
    title = F.when(F.col("text_vector").isNotNull(), F.col("title_hash"))
    both = F.sha2(F.concat_ws("|", F.coalesce(title, F.lit("")), F.coalesce(image, F.lit(""))), 256)
    return {"image": image, "text": title, "fused": both}[view]


def plan_shards(members: DataFrame, module: Module) -> ShardPlan:
    """Count nodes a shard key, and how many shards they need. Collects one row a key, not a node."""
    counts = members.groupBy(shard_key(module).alias("key")).agg(F.count_distinct("node_key").alias("nodes"))
    rows = sorted(((r["key"], r["nodes"]) for r in counts.collect()), key=lambda row: row[0] or "")
    parts = tuple((key, math.ceil(nodes / module.shard_rows)) for key, nodes in rows)
    return ShardPlan(sum(nodes for _, nodes in rows), parts)


def shard_key(module: Module) -> Column:
    key = F.col("category") if module.shard_by == "category" else F.lit(None)
    return key.cast("string")


def shard_rows(members: DataFrame, module: Module, plan: ShardPlan, seed: int) -> DataFrame:
    """The rows that a shard is built from, one an item: shard, label, and what build_shard takes.

    A node goes to a shard of its key by its hash; labels follow a seeded hash, because a graph whose vectors are
    inserted cluster by cluster, as category-sorted tables are, loses vectors.
    `vector` stands on a label's first row only.
    """
    keyed = members.withColumn("key", F.coalesce(shard_key(module), F.lit("")))
    nodes = keyed.groupBy("key", "node_key").agg(
        F.min_by("vector", F.struct("served_at", "content_key")).alias("vector")
    )
    shuffled = Window.partitionBy("shard").orderBy(F.xxhash64("node_key", F.lit(seed)), "node_key")
    label = (F.row_number().over(shuffled) - 1).cast("long")
    labelled = with_shard(nodes, plan).withColumn("label", label)
    first = F.row_number().over(Window.partitionBy("shard", "label").orderBy("item_id")) == 1
    return (keyed.drop("vector").join(labelled, ["key", "node_key"])).select(
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


def with_shard(nodes: DataFrame, plan: ShardPlan) -> DataFrame:
    """Adds a node's shard: the first shard of its key plus its hash, spread over that key's shards."""
    first, rows = 0, []
    for key, count in plan.parts:
        rows.append((key or "", first, count))
        first += count
    keys = nodes.sparkSession.createDataFrame(rows, "key string, first int, count int")
    spread = F.col("first") + F.pmod(F.xxhash64("node_key"), F.col("count"))
    return nodes.join(F.broadcast(keys), "key").withColumn("shard", spread.cast("int")).drop("first", "count")
