"""Write a release's display files on executors: a task takes one file's rows and hands the file to the store."""

import json
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict
from itertools import chain
from pathlib import Path

import pyarrow as pa

from samestyle.release.display import write_display
from samestyle.release.store import Store, reporting


def display_writer(store: Store) -> Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    """For mapInArrow over partitions that hold one file's rows each, sorted by item_id; yields schemas.WRITTEN.

    The columns are those of samestyle.release.display.SCHEMA, and `file`, a file's number.
    """

    def write(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        first = next((batch for batch in batches if batch.num_rows), None)
        if first is None:
            return
        with tempfile.TemporaryDirectory(prefix="samestyle-display-") as folder, reporting(folder):
            path = Path(folder) / "display.parquet"
            rows = write_display((batch.drop_columns(["file"]) for batch in chain([first], batches)), path)
            record = {"rows": rows, "object": asdict(store.put_object(path, ".parquet"))}
        yield pa.RecordBatch.from_pydict({"file": first.column("file")[:1], "record": [json.dumps(record)]})

    return write
