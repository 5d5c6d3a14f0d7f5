"""What stands in for calls that older versions of Spark lack does what those calls do."""

import pytest
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from samestyle.tables.versions import make_valid_utf8, repartition_by_id, try_cast

PARTITIONS = 7


@pytest.fixture(params=["as it is", "without the newer calls"])
def either(request, monkeypatch, spark):
    """This version of Spark, and one that has not heard of the newer calls."""
    if request.param != "as it is":
        for place, name in ((DataFrame, "repartitionById"), (Column, "try_cast")):
            monkeypatch.delattr(place, name, raising=False)
    return spark


def test_each_number_is_alone_in_its_partition(either):
    rows = either.range(5 * PARTITIONS).select((F.col("id") % PARTITIONS).cast("int").alias("shard"))
    placed = repartition_by_id(rows, PARTITIONS, "shard")
    assert placed.rdd.getNumPartitions() == PARTITIONS
    found = placed.select("shard", F.spark_partition_id().alias("partition")).distinct().collect()
    assert sorted(map(tuple, found)) == [(n, n) for n in range(PARTITIONS)]


def test_what_is_no_utf8_is_replaced(spark):
    """As it is: the way of Spark 3.5 to do it is an error in a newer one, which has the call."""
    texts = spark.sql("select cast(x'61c3a4ff62' as string) as text, cast(null as string) as none")
    row = texts.select(make_valid_utf8(F.col("text")), make_valid_utf8(F.col("none"))).first()
    assert tuple(row) == ("aä\ufffdb", None)


def test_values_that_fit_are_cast(either):
    row = either.range(1).select(try_cast(F.lit("1.5"), "double"), try_cast(F.lit("2026-01-02"), "date").cast("string"))
    assert tuple(row.first()) == (1.5, "2026-01-02")
