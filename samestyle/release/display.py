"""The display files of a release: what a page shows of an item, which the graphs and item files do not say."""

from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

# thumbnail: a JPEG file's bytes. Null for what is not known.
SCHEMA = pa.schema(
    [
        pa.field("item_id", pa.string()),
        pa.field("title", pa.string()),
        pa.field("image_uri", pa.string()),
        pa.field("thumbnail", pa.binary()),
    ]
)
# Thumbnails of one group stay far below the 2 GiB that 32-bit offsets reach.
GROUP_ROWS = 1024


def write_display(batches: Iterable[pa.RecordBatch], path: Path) -> int:
    """Write rows of SCHEMA, in the order in which they come; returns how many there were.

    The same rows give the same bytes, however they were cut into batches.
    """
    with pq.ParquetWriter(path, SCHEMA, compression="none") as writer:  # thumbnails are compressed already
        rows, waiting = 0, pa.Table.from_batches([], SCHEMA)
        for batch in batches:
            waiting = pa.concat_tables([waiting, pa.Table.from_batches([batch]).select(SCHEMA.names).cast(SCHEMA)])
            full = waiting.num_rows - waiting.num_rows % GROUP_ROWS
            if full:
                writer.write_table(waiting.slice(0, full), row_group_size=GROUP_ROWS)
            rows, waiting = rows + batch.num_rows, waiting.slice(full)
        if waiting.num_rows:
            writer.write_table(waiting)
    return rows
