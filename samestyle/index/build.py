"""Build one shard: a stock hnswlib file, and beside it the item file that says which items a node stands for."""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import hnswlib
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from samestyle.errors import IntegrityError, SamestyleError
from samestyle.index.health import find_orphans, graph_health, repair_orphans
from samestyle.index.items import check_count, write_items
from samestyle.index.nodes import SPACE, GraphHealth, GraphParameters


class VectorError(SamestyleError):
    """A vector that has no place in a graph of unit vectors."""


@dataclass(frozen=True)
class BuiltShard:
    """What was built, and what was measured on it before it is handed on."""

    nodes: int
    items: int
    orphans_found: int
    orphans: int
    insertion_digest: str
    health: GraphHealth


def build_shard(
    batches: Iterable[pa.RecordBatch], nodes: int, graph: GraphParameters, graph_path: Path, items_path: Path
) -> BuiltShard:
    """Stream rows into a graph and its item file.

    batches: ordered by label, for each first the node and then its items, by item_id. A node's row has its `vector`
    (float32 list, `dim` long) and names one of its items; an item's row has none, and its other columns go to the item
    file as they are. Labels are 0..nodes-1 in the order of insertion, which the caller has shuffled with a seed.
    Raises VectorError for a vector that is not finite, not of unit length or of another dimension; IntegrityError where
    the written file does not hold what was inserted (hnswlib itself is silent about a full disk).
    """
    index = hnswlib.Index(space=SPACE, dim=graph.dim)
    index.init_index(nodes, graph.m, graph.ef_construction, graph.seed)
    index.set_num_threads(1)  # several threads would make another graph each time
    digest = hashlib.sha256()
    counts = write_items(inserted(index, batches, graph, digest), nodes, items_path)
    check_count(graph_path, index.get_current_count(), nodes)
    found, left = save_repaired(index, graph_path)
    sample = sample_of(index)
    del index  # it would stay in memory beside the file that is opened for comparison
    check_written(graph_path, sample, nodes)
    health = graph_health(graph_path)
    return BuiltShard(nodes, counts.items, found, left, digest.hexdigest(), health)


def inserted(
    index: hnswlib.Index, batches: Iterable[pa.RecordBatch], graph: GraphParameters, digest
) -> Iterator[pa.RecordBatch]:
    """Insert the nodes that come, and pass on the items."""
    for batch in batches:
        is_node = batch.column("vector").is_valid()
        insert(index, batch.filter(is_node), graph, digest)
        yield batch.drop_columns(["vector"]).filter(pc.invert(is_node))


def insert(index: hnswlib.Index, batch: pa.RecordBatch, graph: GraphParameters, digest) -> None:
    """Add these nodes in bounded portions: one huge add has been seen to corrupt an index."""
    if batch.num_rows == 0:
        return
    vectors = unit_vectors(batch, graph.dim)
    labels = np.ascontiguousarray(batch.column("label").to_numpy(zero_copy_only=False))
    # Row by row, so that the digest does not depend on how the rows were batched.
    digest.update(np.hstack([labels[:, None].view(np.uint8), vectors.view(np.uint8)]).tobytes())
    for start in range(0, len(labels), graph.add_rows):
        part = slice(start, start + graph.add_rows)
        index.add_items(vectors[part], labels[part], num_threads=1)


def unit_vectors(batch: pa.RecordBatch, dim: int) -> np.ndarray:
    """The batch's vectors, (rows, dim) float32, checked. Raises VectorError naming the first bad one's item."""
    column = batch.column("vector")
    lengths = column.value_lengths().to_numpy()
    ids = batch.column("item_id")
    if (lengths != dim).any():
        row = int(np.argmax(lengths != dim))
        raise VectorError(
            f"vector of item {ids[row]} has {lengths[row]} numbers, the index {dim}: one encoder an index"
        )
    vectors = column.flatten().to_numpy(zero_copy_only=False).astype(np.float32, copy=False).reshape(-1, dim)
    vectors = np.ascontiguousarray(vectors)
    norms = np.linalg.norm(vectors, axis=1)
    bad = ~(np.abs(norms - 1) < 1e-3)  # true for NaN as well
    if bad.any():
        row = int(np.argmax(bad))
        raise VectorError(f"vector of item {ids[row]} has length {norms[row]}, not 1: embed it again")
    return vectors


def save_repaired(index: hnswlib.Index, path: Path) -> tuple[int, int]:
    """How many orphans were found, and how many are left; where there were some, what is saved is repaired."""
    save(index, path)
    found = find_orphans(index, path)
    left = repair_orphans(index, found, path)
    if len(found):
        save(index, path)
    return len(found), len(left)


def save(index: hnswlib.Index, path: Path) -> None:
    """Raises IntegrityError where the file is not whole: save_index raises nothing when the disk is full."""
    index.save_index(str(path))
    size, expected = path.stat().st_size if path.exists() else 0, index.index_file_size()
    if size != expected:
        raise IntegrityError(f"{path} has {size} bytes, {expected} were to be written: is the disk full?")


def sample_of(index: hnswlib.Index) -> np.ndarray:
    """Up to 100 vectors, (sample, dim) float32, by evenly spread labels."""
    nodes = index.get_current_count()
    return np.asarray(index.get_items(np.linspace(0, nodes - 1, num=min(100, nodes), dtype=np.int64)), dtype=np.float32)


def check_written(path: Path, sample: np.ndarray, nodes: int) -> None:
    """Open the file as a reader would and compare."""
    reopened = hnswlib.Index(space=SPACE, dim=sample.shape[1])
    reopened.load_index(str(path))
    if reopened.get_current_count() != nodes:
        raise IntegrityError(f"{path} holds {reopened.get_current_count()} nodes, {nodes} were written: build again")
    if not np.array_equal(sample_of(reopened), sample):
        raise IntegrityError(f"{path} gives back other vectors than were written: build again")
