"""A built shard, opened for search: the graph and its item file."""

from dataclasses import dataclass
from pathlib import Path

import hnswlib
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from samestyle.errors import IntegrityError
from samestyle.index.exact import exact_search_blocks, held_nodes
from samestyle.index.graph_file import GraphFile
from samestyle.index.items import living_labels
from samestyle.index.nodes import SPACE
from samestyle.index.walk import Walk


@dataclass
class OpenShard:
    """`items` has one row an item, ordered by label; `first_row[label]` is the first of a node's rows.

    living: labels (int64, rising) of the nodes with a living item. The others are never found. walk: the graph's links,
    where it was opened with them.
    """

    graph: hnswlib.Index
    items: pa.Table
    first_row: np.ndarray
    living: np.ndarray
    walk: Walk | None = None

    @property
    def nodes(self) -> int:
        """Living and dead ones."""
        return len(self.first_row) - 1

    def vectors(self, labels: np.ndarray | None = None) -> np.ndarray:
        """Vectors of living nodes, (nodes, dim) float32; of all by default."""
        return np.asarray(self.graph.get_items(self.living if labels is None else labels), dtype=np.float32)

    def search(self, queries: np.ndarray, k: int, ef: int) -> tuple[np.ndarray, np.ndarray]:
        """Labels (int64) and cosines (float32), both (queries, min(k, living nodes)), best first."""
        k = min(k, len(self.living))
        if k == 0:
            return self.search_exactly(queries, k)
        self.graph.set_ef(max(ef, k))
        try:
            labels, distances = self.graph.knn_query(queries, k=k, num_threads=1)
        except RuntimeError:  # hnswlib's way of saying that it reaches fewer than k
            return self.search_exactly(queries, k)
        return labels.astype(np.int64), (1 - distances).astype(np.float32)

    def compared(self, queries: np.ndarray, k: int, ef: int) -> np.ndarray:
        """How many vectors each query is compared with by `search`, (queries,) int64. Slow: for a few."""
        if self.walk is None:
            raise ValueError("the shard was opened without its links")
        return np.array([self.walk.search(query, k, ef)[1] for query in queries], dtype=np.int64)

    def search_exactly(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """What `search` would return if the graph were perfect."""
        return exact_search_blocks(held_nodes(self.graph, self.living), queries, k)

    def members(self, label: int) -> slice:
        """Rows of `items` that a node stands for."""
        return slice(int(self.first_row[label]), int(self.first_row[label + 1]))


def open_shard(graph_path: Path, items_path: Path, dim: int, nodes: int, links: bool = False) -> OpenShard:
    """Load both files, which the caller has verified by checksum. Raises IntegrityError where they do not fit.

    links: map them from the file as well, for `compared`; the file may be removed, but takes disk until that is closed.
    """
    graph = hnswlib.Index(space=SPACE, dim=dim)
    graph.load_index(str(graph_path))
    items = pq.read_table(items_path)
    labels = items.column("label").to_numpy()
    if graph.get_current_count() != nodes or len(np.unique(labels)) != nodes:
        raise IntegrityError(
            f"{graph_path.name} has {graph.get_current_count()} nodes and its item file {len(np.unique(labels))}, "
            f"{nodes} were recorded: the files do not belong together"
        )
    living = living_labels(items)
    dead = np.setdiff1d(np.arange(nodes), living)
    for label in dead:
        graph.mark_deleted(int(label))
    walk = Walk(GraphFile(graph_path), dead) if links else None
    return OpenShard(graph, items, np.searchsorted(labels, np.arange(nodes + 1)), living, walk)
