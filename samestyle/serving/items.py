"""The item file beside a shard: which items a node stands for, and what filters know about them."""

from array import array
from collections import OrderedDict
from copy import copy
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from threading import Lock

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


# See Selection.places.
SEVERAL, ELSEWHERE = 64, -1
# Filters of a shard whose passing items are remembered.
FILTERS_KEPT = 8


@dataclass(frozen=True)
class Selection:
    """Items that may be shown, by node: of node n, `rows` from starts[n] to starts[n + 1].

    rows: (items,) int64, rising; starts: (nodes + 1,) int64; nodes: labels with such an item, int64, rising.
    """

    rows: np.ndarray
    starts: np.ndarray
    nodes: np.ndarray

    @classmethod
    def of(cls, mask: np.ndarray, starts: np.ndarray) -> "Selection":
        """mask: (rows of the file,) bool; starts: where each node's rows begin."""
        before = np.concatenate([[0], np.cumsum(mask)])[starts]
        return cls(np.flatnonzero(mask), before, np.flatnonzero(np.diff(before)))

    @cached_property
    def allowed(self) -> np.ndarray:
        """(nodes,) bool."""
        return np.diff(self.starts) > 0

    @cached_property
    def places(self) -> array:
        """Where each node's items are, as one number that is read at once: of a single one its row; of several that
        follow each other ~(SEVERAL * first row + how many); ELSEWHERE of others, and where there is none."""
        counts = np.diff(self.starts)
        first, last = self.rows[self.starts[:-1][counts > 0]], self.rows[self.starts[1:][counts > 0] - 1]
        counts = counts[counts > 0]
        found = np.full(len(self.starts) - 1, ELSEWHERE, dtype=np.int64)
        follow = (last - first + 1 == counts) & (counts < SEVERAL)
        found[self.nodes] = np.where(counts == 1, first, np.where(follow, ~(SEVERAL * first + counts), ELSEWHERE))
        return array("q", found.tobytes())

    @cached_property
    def views(self) -> tuple[memoryview, memoryview]:
        """starts and rows, whose single elements are read several times faster than an array's."""
        return self.starts.data, self.rows.data


class Codes:
    """A column of strings that repeat: (rows,) codes, and the strings that they stand for."""

    def __init__(self, column: pa.ChunkedArray) -> None:
        encoded = column.combine_chunks().dictionary_encode()
        self.names: list[str | None] = [*encoded.dictionary.to_pylist(), None]
        self.codes = encoded.indices.fill_null(len(self.names) - 1).to_numpy(zero_copy_only=False)

    def __getitem__(self, row: int) -> str | None:
        return self.names[self.codes[row]]


class ItemFile:
    """One row an item, sorted by (label, item_id).

    starts: (nodes + 1,) int64, the rows of node n are starts[n] to starts[n + 1]; alive: (rows,) bool; living: the
    items that are alive and not denied; ids, suppliers, categories: of each row, as Python strings, for speed.
    """

    def __init__(self, table: pa.Table, nodes: int) -> None:
        self.table = table
        self.labels = table["label"].to_numpy()
        self.alive = table["alive"].to_numpy(zero_copy_only=False)
        self.starts = np.searchsorted(self.labels, np.arange(nodes + 1))
        self.ids: list[str] = table["item_id"].to_pylist()
        self.suppliers, self.categories = Codes(table["supplier_id"]), Codes(table["category"])
        self.living = Selection.of(self.alive, self.starts)
        self._kept: OrderedDict[bytes, Selection] = OrderedDict()
        self._turn = Lock()

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

    def without(self, denied: frozenset[str]) -> "ItemFile":
        """The same items, of which the denied ones are not shown; shares all columns with this one."""
        other = copy(self)
        hidden = pc.is_in(self.table["item_id"], value_set=pa.array(sorted(denied), pa.string())).to_numpy()
        other.living = Selection.of(self.alive & ~hidden, self.starts)
        other._kept, other._turn = OrderedDict(), Lock()
        return other

    @property
    def nodes(self) -> int:
        return len(self.starts) - 1

    def is_shown(self, row: int) -> bool:
        place = np.searchsorted(self.living.rows, row)
        return bool(place < len(self.living.rows) and self.living.rows[place] == row)

    def row_of(self, item_id: str) -> int | None:
        """The row of an item that may be shown."""
        row = pc.index(self.table["item_id"], item_id).as_py()
        return row if row >= 0 and self.is_shown(row) else None

    def passing(self, where: pc.Expression | None) -> Selection:
        """The living items that pass; remembered for the last few filters. Raises UsageError for one that fails."""
        if where is None:
            return self.living
        key = bytes(where.__reduce__()[1][0])
        with self._turn:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        found = Selection.of(self.matching(where), self.starts)
        with self._turn:
            self._kept[key] = found
            while len(self._kept) > FILTERS_KEPT:
                self._kept.popitem(last=False)
        return found

    def matching(self, where: pc.Expression) -> np.ndarray:
        """(rows,) bool: which living items pass."""
        numbered = self.table.append_column("__row", pa.array(np.arange(len(self.table))))
        try:
            found = numbered.filter(where)["__row"].to_numpy()
        except (pa.ArrowException, TypeError) as error:
            columns = ", ".join(f"{field.name} {field.type}" for field in self.table.schema)
            raise UsageError(f"filter {where} does not work ({error}); the columns are {columns}") from error
        rows = np.zeros(len(self.table), dtype=bool)
        rows[np.intersect1d(found, self.living.rows, assume_unique=True)] = True
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
