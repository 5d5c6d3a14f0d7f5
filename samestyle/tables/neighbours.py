"""The table of neighbours: each trigger's best candidates of all shards, put into bands."""

from collections.abc import Callable
from typing import Any

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from samestyle.settings import Neighbours
from samestyle.tables.indexes import WorkerFunction, find_candidates
from samestyle.tables.members import view_members
from samestyle.tables.night import Night


def module_neighbours(
    night: Night, record: dict[str, Any], ef: int, finder: Callable[..., WorkerFunction]
) -> DataFrame:
    """Rows of schemas.NEIGHBOURS for the fused index of one module."""
    name, limits = record["module"], night.settings.neighbours
    triggers = module_triggers(night, name)
    queries = triggers.select(F.col("item_id").alias("query_id"), "vector")
    found = find_candidates(night, record, queries, limits.candidates, ef, finder)
    bands = band_neighbours(found, triggers.select("item_id", "supplier_id", "category"), limits)
    return bands.select(
        F.lit(name).alias("module"),
        "item_id",
        "band",
        "rank",
        "neighbour_id",
        "score",
        F.lit(night.release_id).alias("release_id"),
    )


def module_triggers(night: Night, name: str) -> DataFrame:
    """Whose neighbours are listed: all items, or the clicked ones; with their fused vectors."""
    items = night.items().where("content_key is not null")
    clicks = night.clicks()
    if night.settings.modules[name].triggers == "clicked" and clicks is not None:
        items = items.join(clicks.select("item_id").distinct(), "item_id", "left_semi")
    return view_members(items, night.embeddings(), "fused")


def own_rows(module: str, release_id: str) -> Column:
    return (F.col("module") == module) & (F.col("release_id") == release_id)


def band_neighbours(candidates: DataFrame, triggers: DataFrame, limits: Neighbours) -> DataFrame:
    """Candidates as bands: item_id, band, rank, neighbour_id, score.

    same_style: other suppliers, at or above same_style_min; duplicate: the same supplier, at or above duplicate_min;
    similar: the next ones of the same category. No neighbour is in two bands. triggers: item_id, supplier_id, category.
    """
    own = triggers.select(
        F.col("item_id").alias("query_id"),
        F.col("supplier_id").alias("own_supplier"),
        F.col("category").alias("own_category"),
    )
    same_supplier = F.col("supplier_id").eqNullSafe(F.col("own_supplier")) & F.col("supplier_id").isNotNull()
    score = F.col("score")
    band = (
        F.when((score >= limits.same_style_min) & ~same_supplier, "same_style")
        .when((score >= limits.duplicate_min) & same_supplier, "duplicate")
        .when(
            (score < limits.same_style_min)
            & (score >= limits.similar_min)
            & F.col("category").eqNullSafe(F.col("own_category")),
            "similar",
        )
    )
    best = Window.partitionBy("query_id", "band").orderBy(score.desc(), "item_id")
    ranked = candidates.join(own, "query_id").withColumn("band", band).where("band is not null")
    return (
        ranked.withColumn("rank", F.row_number().over(best))
        .where(F.col("rank") <= limits.k)
        .select(
            F.col("query_id").alias("item_id"),
            "band",
            "rank",
            F.col("item_id").alias("neighbour_id"),
            "score",
        )
    )
