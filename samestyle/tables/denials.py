"""The denylist as a frame: what a night must not serve."""

from pyspark.sql import DataFrame, SparkSession

from samestyle.release.denylist import read_denylist
from samestyle.release.store import Store


def denied_items(spark: SparkSession, store: Store) -> DataFrame:
    """One row a denied item: item_id. Read once, when it is called. Raises IntegrityError."""
    ids = sorted(read_denylist(store).items)
    return spark.createDataFrame([(item_id,) for item_id in ids], "item_id string")
