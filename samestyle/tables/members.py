"""From items and embeddings to rows of shards: which node stands for which items, in which shard, at which label.

All indexes of a night go through together: one pass over the items, one Spark job to build every shard, so that a small
index does not wait for a large one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from pyspark.errors import PySparkException
from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F
from pyspark.sql.types import StructType

from samestyle.errors import UsageError
from samestyle.index.segments import Filling
from samestyle.release.manifest import VIEWS
from samestyle.tables.modules import IndexTask

ITEM_COLUMNS = ("item_id", "supplier_id", "category", "attributes")
NODE = ("index", "key", "node_key")
# So few nodes are told to every worker (40 MB), instead of sending the vectors of the whole catalogue to where the
# nodes are: most nights insert less than that.
FEW_NODES = 100_000
# (index, key, slot) -> (nodes, those with an item of tonight); slot None: new.
NodeCounts = dict[tuple[int, str, int | None], tuple[int, int]]
# The nodes of the parent's shards; a slot is a shard's place among them.
HELD = "index int, key string, slot int, label long, node_key string"


@dataclass(frozen=True)
class Placement:
    """What becomes of the parent's shards, in numbers of tonight's, which count over all indexes.

    kept: (slot, shard) of those that stay. fillings: (index, shard of its first one, what is built).
    """

    kept: tuple[tuple[int, int], ...]
    fillings: tuple[tuple[int, int, Filling], ...]

    @property
    def inserted(self) -> int:
        return sum(filling.nodes for _, _, filling in self.fillings)


def index_rows(
    items: DataFrame, embeddings: DataFrame, tasks: Sequence[IndexTask], clicks: DataFrame | None
) -> DataFrame:
    """One row an item and index that it belongs to: NODE (index is its number in `tasks`), what serves it, the item.

    Raises UsageError where a module's filter cannot be evaluated.
    """
    served = with_views(with_attributes(items.where("content_key is not null")), embeddings)
    if clicks is not None:
        clicked = clicks.join(items, "item_id").select("category", F.lit(True).alias("is_clicked")).distinct()
        served = served.join(F.broadcast(clicked), "category", "left")
    entries = [entry(served, number, task) for number, task in enumerate(tasks)]
    exploded = F.explode(F.filter(F.array(*entries), lambda one: one.isNotNull()))
    columns = ["content_key", "served_at", *ITEM_COLUMNS]
    return served.select(*columns, exploded.alias("entry")).select(*columns, "entry.*")


def with_views(items: DataFrame, embeddings: DataFrame) -> DataFrame:
    """Items with what the attempt that serves them has vectors of: the vectors themselves would travel for nothing."""
    attempts = embeddings.select(
        "content_key",
        F.col("embedded_at").alias("served_at"),
        "title_hash",
        "image_digest",
        *[F.col(f"{view}_vector").isNotNull().alias(f"has_{view}_vector") for view in VIEWS],
    )
    return items.join(attempts, ["content_key", "served_at"])


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
    belongs = F.col(f"has_{task.view}_vector")
    if task.where is not None:
        belongs = belongs & checked_filter(served, task)
    if task.module.scope == "clicked_categories":
        belongs = belongs & F.col("is_clicked")
    key = F.col("category") if task.module.shard_by == "category" else F.lit("")
    place = F.struct(
        F.lit(number).alias("index"),
        F.coalesce(key, F.lit("")).alias("key"),
        node_key(task.view).alias("node_key"),
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
    image = F.when(F.col("has_image_vector"), F.col("image_digest"))
    title = F.when(F.col("has_text_vector"), F.col("title_hash"))
    both = F.sha2(F.concat_ws("|", F.coalesce(title, F.lit("")), F.coalesce(image, F.lit(""))), 256)
    return {"image": image, "text": title, "fused": both}[view]


def night_nodes(rows: DataFrame, held: DataFrame) -> DataFrame:
    """One row a node of tonight or of the parent: NODE, source, slot, label.

    source: the served_at and content_key of its vector, that of the earliest row that has it; null where no item of
    tonight has the node. slot and label: where it stands in the parent; null where it is new. held: see HELD.
    """
    source = F.min(F.struct("served_at", "content_key", "item_id")).alias("source")
    return rows.groupBy(*NODE).agg(source).join(held, list(NODE), "full_outer")


def count_nodes(nodes: DataFrame) -> NodeCounts:
    """Collects a row a shard of the parent, and one a key that something is new for."""
    counts = nodes.groupBy("index", "key", "slot").agg(F.count("*").alias("nodes"), F.count("source").alias("living"))
    return {(row["index"], row["key"], row["slot"]): (row["nodes"], row["living"]) for row in counts.collect()}


def placed_nodes(nodes: DataFrame, placement: Placement, seed: int) -> DataFrame:
    """Nodes with their shard and label; `nodes` is the number in the shard where it is built, null where it is kept.

    Of a shard that is built, a node's hash says where it goes, and another one its label: a graph whose vectors are
    inserted cluster by cluster, as category-sorted tables are, loses vectors. Dead nodes stay in shards that are kept.
    """
    spark = nodes.sparkSession
    kept = F.broadcast(spark.createDataFrame(list(placement.kept), "slot int, shard int"))
    stay = nodes.join(kept, "slot").select(*NODE, "source", "shard", "label", F.lit(None).cast("long").alias("nodes"))
    moving = nodes.where("source is not null").join(kept, "slot", "left_anti").select(*NODE, "source")
    table = [(index, f.key, shard, f.first, f.nodes, f.rows) for index, shard, f in placement.fillings]
    fillings = spark.createDataFrame(table, "index int, key string, shard int, first int, pool long, rows long")
    # Salted by the shard's number: what an open shard holds are the last ones by the hash that it was filled by.
    place = F.expr("pmod(xxhash64(first, node_key), pool) div rows")
    numbered = moving.join(F.broadcast(fillings), ["index", "key"]).withColumn(
        "shard", (F.col("shard") + place).cast("int")
    )
    of_shard = Window.partitionBy("shard")
    shuffled = of_shard.orderBy(F.xxhash64("node_key", F.lit(seed)), "node_key")
    label = (F.row_number().over(shuffled) - 1).cast("long").alias("label")
    return stay.unionByName(
        numbered.select(*NODE, "source", "shard", label, F.count("*").over(of_shard).alias("nodes"))
    )


def shard_rows(
    rows: DataFrame, placed: DataFrame, embeddings: DataFrame, tasks: Sequence[IndexTask], inserted: int
) -> DataFrame:
    """What shards are made from, in no order: items, a row for each dead node, and nodes to insert with their `vector`.

    inserted: how many of these there are.
    A dead node's row names no item and keeps its label, so that it lives again when its content returns.
    """
    item = {name: F.col(name) for name in ITEM_COLUMNS}
    nothing = {name: F.lit(None).cast(rows.schema[name].dataType) for name in ITEM_COLUMNS}
    no_vector = F.lit(None).cast("array<float>")
    members = rows.join(placed.drop("source"), list(NODE))
    dead = placed.where("source is null")
    return (
        members.select(*shard_columns(F.lit(True), item, no_vector))
        .unionByName(dead.select(*shard_columns(F.lit(False), nothing | {"item_id": F.lit("")}, no_vector)))
        .unionByName(
            with_node_vectors(placed, embeddings, tasks, inserted).select(
                *shard_columns(
                    F.lit(None).cast("boolean"), nothing | {"item_id": F.col("source.item_id")}, F.col("vector")
                )
            )
        )
    )


def shard_columns(alive: Column, item: dict[str, Column], vector: Column) -> list[Column]:
    columns = [F.col(name) for name in ("shard", "nodes", "label", "node_key")]
    return [*columns, *[item[name].alias(name) for name in ITEM_COLUMNS], alive.alias("alive"), vector.alias("vector")]


def with_node_vectors(placed: DataFrame, embeddings: DataFrame, tasks: Sequence[IndexTask], inserted: int) -> DataFrame:
    """The nodes of shards to build with their `vector`, that of the index's view."""
    fresh = placed.where("nodes is not null").select("*", "source.served_at", "source.content_key")
    fresh = F.broadcast(fresh) if inserted <= FEW_NODES else fresh
    views = [[number for number, task in enumerate(tasks) if task.view == view] for view in VIEWS]
    wanted = [F.when(F.col("index").isin(own), F.col(f"{view}_vector")) for view, own in zip(VIEWS, views, strict=True)]
    return with_vectors(fresh, embeddings).withColumn("vector", F.coalesce(*wanted))
