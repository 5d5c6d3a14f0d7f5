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
# So few nodes are told to every worker (100 MB), instead of sending the vectors of the whole catalogue to where the
# nodes are: most nights insert less than that.
FEW_NODES = 250_000
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
    """Items with what the attempt that serves them has vectors of, `has_<view>_vector`.

    That is told by what became of the attempt: to ask the vectors themselves would read all of them, a terabyte in a
    catalogue of hundreds of millions.
    """
    encoded = F.col("outcome").isin("embedded", "degraded")
    has = {
        "image": (F.col("outcome") == "embedded") & F.col("image_digest").isNotNull(),
        "text": encoded & F.col("title_hash").isNotNull(),
        "fused": encoded,
    }
    attempts = embeddings.select(
        "content_key",
        F.col("embedded_at").alias("served_at"),
        "title_hash",
        "image_digest",
        *[has[view].alias(f"has_{view}_vector") for view in VIEWS],
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


def rows_by_node(rows: DataFrame, held: DataFrame) -> DataFrame:
    """All that is known of a node side by side: the rows of its items, and that of the parent, which has no item.

    Each has slot and label, where its node stands in the parent, null where it is new. is_first is true in one row a
    node: that of the earliest item, whose vector it has, or the parent's, where no item of tonight has the node.
    held: see HELD.
    """
    # By the key first: its first eight bytes decide nearly every comparison.
    of_node = Window.partitionBy("node_key", "key", "index")
    order = of_node.orderBy(F.col("item_id").isNull(), "served_at", "content_key", "item_id")
    whole = order.rowsBetween(Window.unboundedPreceding, Window.unboundedFollowing)
    both = rows.unionByName(held, allowMissingColumns=True)
    return both.select(
        *rows.columns,
        F.max("slot").over(whole).alias("slot"),
        F.max("label").over(whole).alias("label"),
        (F.row_number().over(order) == 1).alias("is_first"),
    )


def count_nodes(rows: DataFrame) -> NodeCounts:
    """Collects a row a shard of the parent, and one a key that something is new for. rows: see rows_by_node."""
    nodes = rows.where("is_first").groupBy("index", "key", "slot")
    counts = nodes.agg(F.count("*").alias("nodes"), F.count("item_id").alias("living")).collect()
    return {(row["index"], row["key"], row["slot"]): (row["nodes"], row["living"]) for row in counts}


def placed_rows(rows: DataFrame, placement: Placement, seed: int) -> DataFrame:
    """The rows of rows_by_node that shards are made from, with `shard` and whether it is built, `is_built`.

    label: where a shard is kept, the node's; where it is built, a hash, by whose order nodes get their labels: a graph
    whose vectors are inserted cluster by cluster, as category-sorted tables are, loses vectors. Another hash says which
    of the shards to build a node goes to. Dead nodes stay in shards that are kept.
    """
    spark = rows.sparkSession
    kept = spark.createDataFrame(list(placement.kept), "slot int, kept int")
    table = [(index, f.key, shard, f.first, f.nodes, f.rows) for index, shard, f in placement.fillings]
    fillings = spark.createDataFrame(table, "index int, key string, shard int, first int, pool long, rows long")
    # Salted by the shard's number: what an open shard holds are the last ones by the hash that it was filled by.
    filled = F.expr("int(shard + pmod(xxhash64(first, node_key), pool) div rows)")
    found = rows.join(F.broadcast(kept), "slot", "left").join(F.broadcast(fillings), ["index", "key"], "left")
    is_built = F.col("kept").isNull()
    placed = found.select(
        *[name for name in rows.columns if name != "label"],
        F.coalesce("kept", filled).alias("shard"),
        F.when(is_built, F.xxhash64("node_key", F.lit(seed))).otherwise(F.col("label")).alias("label"),
        is_built.alias("is_built"),
    )
    return placed.where("item_id is not null or (is_first and not is_built)")


def count_built(placed: DataFrame) -> dict[int, int]:
    """Shards to build -> how many nodes they get."""
    counts = placed.where("is_first and is_built").groupBy("shard").count()
    return {row["shard"]: row["count"] for row in counts.collect()}


def shard_rows(placed: DataFrame, embeddings: DataFrame, tasks: Sequence[IndexTask], inserted: int) -> DataFrame:
    """What shards are made from, in no order: items, a row for each dead node, and nodes to insert with their `vector`.

    placed: see placed_rows. inserted: how many nodes are built.
    A dead node's row names no item and keeps its label, so that it lives again when its content returns.
    """
    item_id, is_item = F.coalesce("item_id", F.lit("")), F.col("item_id").isNotNull()
    item = {name: F.col(name) for name in ITEM_COLUMNS} | {"item_id": item_id}
    nothing = {name: F.lit(None).cast(placed.schema[name].dataType) for name in ITEM_COLUMNS} | {"item_id": item_id}
    items = placed.select(*shard_columns(is_item, item, F.lit(None).cast("array<float>")))
    nodes = with_node_vectors(placed, embeddings, tasks, inserted)
    return items.unionByName(nodes.select(*shard_columns(F.lit(None).cast("boolean"), nothing, F.col("vector"))))


def shard_columns(alive: Column, item: dict[str, Column], vector: Column) -> list[Column]:
    columns = [F.col(name) for name in ("shard", "label", "node_key")]
    return [*columns, *[item[name].alias(name) for name in ITEM_COLUMNS], alive.alias("alive"), vector.alias("vector")]


def with_node_vectors(placed: DataFrame, embeddings: DataFrame, tasks: Sequence[IndexTask], inserted: int) -> DataFrame:
    """The nodes of shards to build with their `vector`, that of the index's view."""
    fresh = placed.where("is_first and is_built")
    fresh = F.broadcast(fresh) if inserted <= FEW_NODES else fresh
    views = [[number for number, task in enumerate(tasks) if task.view == view] for view in VIEWS]
    wanted = [F.when(F.col("index").isin(own), F.col(f"{view}_vector")) for view, own in zip(VIEWS, views, strict=True)]
    return with_vectors(fresh, embeddings).withColumn("vector", F.coalesce(*wanted))
