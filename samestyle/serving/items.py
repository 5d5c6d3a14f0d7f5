"""The item file beside a shard: which items a node stands for, and what filters know about them."""

from collections.abc import Collection
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from samestyle.errors import IntegrityError, UsageError
from samestyle.release.manifest import Shard

COLUMNS = {
    "label": pa.int64(),
    "node_key": pa.string(),
    "item_id": pa.string(),
    "alive": pa.bool_(),
    "supplier_id": pa.string(),
    "category": pa.string(),
}


class ItemFile:
    """One row an item, sorted by (label, item_id).

    starts: (nodes + 1,) int64, the rows of node n are starts[n] to starts[n + 1]; alive: (rows,) bool.
    """

    def __init__(self, table: pa.Table, nodes: int) -> None:
        self.table = table
        self.labels = table["label"].to_numpy()
        self.alive = table["alive"].to_numpy(zero_copy_only=False)
        self.starts = np.searchsorted(self.labels, np.arange(nodes + 1))

    @classmethod
    def load(cls, path: Path, shard: Shard) -> "ItemFile":
        """Read and check. Raises IntegrityError where the file does not fit its shard."""
        name = f"item file of shard {shard.shard} ({shard.items_file.key})"
        try:
            # not memory-mapped: a file that changes under a map ends the process
            table = pq.read_table(path, memory_map=False)
        except (pa.ArrowException, OSError) as error:
            raise IntegrityError(f"{name} is not readable as Parquet: {error}") from error
        table = typed(table, name)
        check_rows(table, shard, name)
        return cls(table.combine_chunks(), shard.nodes)

    @property
    def nodes(self) -> int:
        return len(self.starts) - 1

    def nodes_with(self, rows: np.ndarray) -> np.ndarray:
        """(rows,) bool -> labels (int64, rising) of the nodes that have such a row."""
        return np.unique(self.labels[rows])

    def row_of(self, item_id: str) -> int | None:
        """The row of a living item."""
        row = pc.index(self.table["item_id"], item_id).as_py()
        return row if row >= 0 and self.alive[row] else None

    def passing(self, where: pc.Expression | None, exclude_suppliers: Collection[str]) -> np.ndarray:
        """(rows,) bool: living items that pass. Raises UsageError for a filter that cannot be evaluated."""
        rows = self.alive
        if len(exclude_suppliers):
            excluded = pc.is_in(self.table["supplier_id"], value_set=pa.array(list(exclude_suppliers), pa.string()))
            rows = rows & ~excluded.to_numpy()
        if where is not None:
            rows = rows & self.matching(where)
        return rows

    def matching(self, where: pc.Expression) -> np.ndarray:
        numbered = self.table.append_column("__row", pa.array(np.arange(len(self.table))))
        try:
            found = numbered.filter(where)["__row"].to_numpy()
        except (pa.ArrowException, TypeError) as error:
            columns = ", ".join(f"{field.name} {field.type}" for field in self.table.schema)
            raise UsageError(f"filter {where} does not work ({error}); the columns are {columns}") from error
        rows = np.zeros(len(self.table), dtype=bool)
        rows[found] = True
        return rows


def typed(table: pa.Table, name: str) -> pa.Table:
    """The table with our columns in our types, whatever kind of string they were written as."""
    for column, kind in COLUMNS.items():
        place = table.schema.get_field_index(column)
        if place < 0:
            raise IntegrityError(f"{name} has the columns {', '.join(table.column_names)}, expected {column} as well")
        try:
            table = table.set_column(place, column, table[column].cast(kind))
        except pa.ArrowException as error:
            raise IntegrityError(f"{name}: column {column} is {table[column].type}, expected {kind}") from error
    return table


def check_rows(table: pa.Table, shard: Shard, name: str) -> None:
    """Rows are sorted, belong to nodes that there are, and as many are alive as the manifest says."""
    for column in ("label", "node_key", "item_id", "alive"):
        if table[column].null_count:
            raise IntegrityError(f"{name}: {table[column].null_count} rows have no {column}, expected none")
    alive = pc.sum(table["alive"]).as_py() or 0
    if alive != shard.items:
        raise IntegrityError(f"{name}: {alive} items are alive, the manifest says {shard.items}")
    labels = table["label"].to_numpy()
    if len(labels) and (labels.min() < 0 or labels.max() >= shard.nodes):
        raise IntegrityError(f"{name}: labels are {labels.min()} to {labels.max()}, expected 0 to {shard.nodes - 1}")
    ids = table["item_id"]
    rising = pc.greater(ids.slice(1), ids.slice(0, max(0, len(ids) - 1))).to_numpy()
    steps = np.diff(labels)
    if not ((steps > 0) | ((steps == 0) & rising)).all():
        raise IntegrityError(f"{name}: rows are not sorted by (label, item_id), or an item stands twice")
