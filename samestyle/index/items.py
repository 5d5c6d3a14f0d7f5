"""The item file beside a graph: one row an item, and one for each node that no living item has."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from samestyle.errors import IntegrityError

# Groups are cut here whatever the batches were, so that the same rows give the same bytes.
GROUP_ROWS = 65_536


@dataclass(frozen=True)
class ItemCounts:
    """`items` that are alive, and `dead` nodes, which have none."""

    items: int
    dead: int


def write_items(batches: Iterable[pa.RecordBatch], nodes: int, path: Path) -> ItemCounts:
    """Write rows ordered by (label, item_id); `alive` is false on the one row of a node without a living item.

    Raises IntegrityError where they are not those of the labels 0..nodes-1.
    """
    items, dead, last = 0, 0, -1
    writer: pq.ParquetWriter | None = None
    try:
        for table in regrouped(batches, GROUP_ROWS):
            labels, alive = table["label"].to_numpy(), table["alive"].to_numpy(zero_copy_only=False)
            steps = np.diff(labels, prepend=last)
            if ((steps < 0) | (steps > 1)).any():
                label = int(labels[(steps < 0) | (steps > 1)][0])
                raise IntegrityError(
                    f"{path.name}: label {label} is out of order, or one before it has no row: build again"
                )
            items, dead = items + int(alive.sum()), dead + int((~alive).sum())
            last = int(labels[-1])
            writer = writer or pq.ParquetWriter(path, table.schema, compression="zstd")
            writer.write_table(table, row_group_size=GROUP_ROWS)
    finally:
        if writer:
            writer.close()
    check_count(path, last + 1, nodes)
    return ItemCounts(items, dead)


def check_count(path: Path, came: int, announced: int) -> None:
    """Raises IntegrityError where they differ."""
    if came != announced:
        raise IntegrityError(
            f"{path.name}: {came} nodes came, {announced} were announced: "
            "the tables changed between counting and building; run build_index again"
        )


def regrouped(batches: Iterable[pa.RecordBatch], size: int) -> Iterator[pa.Table]:
    """The same rows in portions of `size`, the last one smaller; each column is one chunk.

    All columns may be null: whether Spark thinks so depends on its plan, and shall not decide the file's bytes.
    """
    waiting: list[pa.RecordBatch] = []
    rows = 0
    for batch in batches:
        if batch.num_rows == 0:
            continue
        while rows + batch.num_rows >= size:
            head = size - rows
            yield one_table([*waiting, batch.slice(0, head)])
            waiting, rows, batch = [], 0, batch.slice(head)
        waiting, rows = [*waiting, batch], rows + batch.num_rows
    if rows:
        yield one_table(waiting)


def one_table(batches: list[pa.RecordBatch]) -> pa.Table:
    table = pa.Table.from_batches(batches).combine_chunks()
    return table.cast(pa.schema([field.with_nullable(True) for field in table.schema]))


def living_labels(items: pa.Table) -> np.ndarray:
    """Labels (int64, rising) of the nodes that have a living item."""
    return np.unique(items["label"].filter(pc.fill_null(items["alive"], False)).to_numpy())
