"""The display files of a night's release: titles and thumbnails, for people who look at it."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from samestyle.progress import say
from samestyle.tables.night import Night
from samestyle.tables.schemas import WRITTEN
from samestyle.tables.versions import repartition_by_id

# About 150 MB, so that a task and a reader hold one in their hands.
FILE_ROWS = 20_000
Writer = Callable[..., Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]]


def write_display_files(night: Night, writer: Writer) -> dict[str, dict[str, Any]] | None:
    """Name to object, see manifest.ObjectRef; None unless `release.display`. writer: udfs.display.display_writer."""
    if not night.settings.release.display:
        return None
    rows = display_rows(night.items(), night.embeddings())
    files = max(1, -(-rows.count() // FILE_ROWS))
    # By a hash: an item stays in its file from night to night, and a file without a change is the same object.
    placed = rows.withColumn("file", F.pmod(F.xxhash64("item_id"), F.lit(files)).cast("int"))
    sorted_rows = repartition_by_id(placed, files, "file").sortWithinPartitions("item_id")
    written = sorted_rows.mapInArrow(writer(night.store), WRITTEN).collect()
    records = {row["file"]: json.loads(row["record"]) for row in written}
    say(f"display: titles and thumbnails of {sum(record['rows'] for record in records.values()):,} items")
    return {f"items-{file:05d}": records[file]["object"] for file in sorted(records)}


def display_rows(items: DataFrame, embeddings: DataFrame) -> DataFrame:
    """A row an item that something serves: the columns of release.display.SCHEMA."""
    served = embeddings.select("content_key", F.col("embedded_at").alias("served_at"), "thumbnail")
    joined = items.where("content_key is not null").join(served, ["content_key", "served_at"], "left")
    return joined.select("item_id", "title", "image_uri", "thumbnail")
