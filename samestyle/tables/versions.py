"""What older versions of Spark lack, by other means. Everything here is one call on a newer one."""

from inspect import signature
from typing import Any

from pyspark.resource import ResourceProfile
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from samestyle.errors import UsageError

# Numbers tried for each partition: that one of n stays without a number has a chance of n e^-64.
TRIED = 64


def repartition_by_id(rows: DataFrame, partitions: int, column: str) -> DataFrame:
    """A row whose `column` is i goes to partition i, 0 <= i < partitions; none is shared, none is joined to another."""
    if hasattr(DataFrame, "repartitionById"):  # Spark 4.1
        return rows.repartitionById(partitions, F.col(column))
    keys = F.lit(hashed_to_partitions(rows, partitions))
    return rows.repartition(partitions, F.element_at(keys, F.col(column) + 1).cast("bigint"))


def hashed_to_partitions(rows: DataFrame, partitions: int) -> list[int]:
    """The smallest number that Spark's hash puts into partition 0, 1, ..."""
    tried = rows.sparkSession.range(TRIED * partitions)
    placed = tried.groupBy(F.expr(f"pmod(hash(id), {partitions})").alias("place")).agg(F.min("id").alias("key"))
    found = {row["place"]: row["key"] for row in placed.collect()}
    return [found[place] for place in range(partitions)]


def make_valid_utf8(column: Column) -> Column:
    """Text with a replacement character for what is no UTF-8."""
    if hasattr(F, "make_valid_utf8"):  # Spark 4.0
        return F.make_valid_utf8(column)
    return F.decode(column.cast("binary"), "UTF-8")


def try_cast(column: Column, kind: str) -> Column:
    """Null where a value does not fit. Spark 3.5 has no such call, but casts so by default: it is not ANSI."""
    if hasattr(Column, "try_cast"):  # Spark 4.0
        return column.try_cast(kind)
    return column.cast(kind)


def map_in_arrow(rows: DataFrame, function: Any, schema: str, profile: ResourceProfile | None) -> DataFrame:
    """mapInArrow with what its tasks ask of Spark. Raises UsageError where they ask for something before Spark 4.0."""
    if profile is None:
        return rows.mapInArrow(function, schema)
    if "profile" not in signature(rows.mapInArrow).parameters:
        raise UsageError(
            "the embedding stage asks Spark for GPUs of its own, which Spark knows since 4.0: give every task of the "
            "application one (spark.task.resource.gpu.amount), or set encoder.device=cpu"
        )
    return rows.mapInArrow(function, schema, profile=profile)
