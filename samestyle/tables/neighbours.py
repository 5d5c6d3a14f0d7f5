"""The table of neighbours: each trigger's best candidates of all shards, put into bands."""

from collections.abc import Callable
from functools import reduce

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from samestyle.settings import Neighbours
from samestyle.tables.indexes import Record, WorkerFunction, find_candidates
from samestyle.tables.members import with_vectors
from samestyle.tables.night import Night


def all_neighbours(
    night: Night, records: list[Record], efs: list[int], finder: Callable[..., WorkerFunction]
) -> DataFrame:
    """Rows of schemas.NEIGHBOURS for these fused indexes, one a module."""
    limits = night.settings.neighbours
    triggers = reduce(DataFrame.unionByName, [module_triggers(night, n, r["module"]) for n, r in enumerate(records)])
    found = find_candidates(
        night, records, triggers.select("index", "query_id", "vector"), limits.candidates, efs, finder
    )
    names = night.spark.createDataFrame([(n, r["module"]) for n, r in enumerate(records)], "index int, module string")
    bands = band_neighbours(found, night.items(), limits).join(F.broadcast(names), "index")
    columns = ("module", "item_id", "band", "rank", "neighbour_id", "score")
    return bands.select(*columns, F.lit(night.release_id).alias("release_id"))


def own_rows(module: str, release_id: str) -> Column:
    """The rows of one module in one release."""
    return (F.col("module") == module) & (F.col("release_id") == release_id)


def module_triggers(night: Night, index: int, name: str) -> DataFrame:
    """Whose neighbours are listed, all items or the clicked ones: index, query_id, vector."""
    items, clicks = night.items().where("content_key is not null"), night.clicks()
    if night.settings.modules[name].triggers == "clicked" and clicks is not None:
        items = items.join(clicks.select("item_id").distinct(), "item_id", "left_semi")
    vectors = with_vectors(items, night.embeddings())
    return vectors.select(
        F.lit(index).alias("index"), F.col("item_id").alias("query_id"), F.col("fused_vector").alias("vector")
    )


def band_neighbours(candidates: DataFrame, items: DataFrame, limits: Neighbours) -> DataFrame:
    """Candidates (index, query_id, item_id, supplier_id, category, score) as bands, ranked, `limits.k` a band.

    same_style: other suppliers, at or above same_style_min; duplicate: the same supplier, at or above duplicate_min;
    similar: the next ones of the same category, near ones of the same supplier among them. No neighbour is in two
    bands. items: the triggers' supplier, category.
    """
    own = items.where("content_key is not null").select(
        F.col("item_id").alias("query_id"),
        F.col("supplier_id").alias("own_supplier"),
        F.col("category").alias("own_category"),
    )
    joined = candidates.join(own, "query_id").withColumn("band", band_of(limits)).where("band is not null")
    best = Window.partitionBy("index", "query_id", "band").orderBy(F.col("score").desc(), "item_id")
    ranked = joined.withColumn("rank", F.row_number().over(best)).where(F.col("rank") <= limits.k)
    neighbour = F.col("item_id").alias("neighbour_id")
    return ranked.select("index", F.col("query_id").alias("item_id"), "band", "rank", neighbour, "score")


def band_of(limits: Neighbours) -> Column:
    """Which band a candidate falls into, null for none."""
    score, close = F.col("score"), F.col("score") >= limits.same_style_min
    same_supplier = F.col("supplier_id").isNotNull() & F.col("supplier_id").eqNullSafe(F.col("own_supplier"))
    same_category = F.col("category").eqNullSafe(F.col("own_category"))
    return (
        F.when(close & ~same_supplier, "same_style")
        .when(same_supplier & (score >= limits.duplicate_min), "duplicate")
        .when((score >= limits.similar_min) & same_category, "similar")
    )
