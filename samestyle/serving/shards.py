"""One shard in memory: its graph, its items, and how they are searched together."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import hnswlib
import numpy as np
import pyarrow.compute as pc

from samestyle.errors import IntegrityError
from samestyle.release.manifest import Index, Shard
from samestyle.serving.cache import Cache
from samestyle.serving.graph import load_graph, search_exactly
from samestyle.serving.items import ItemFile

# So few nodes are searched faster by brute force than through a graph that mostly leads past them.
FEW_NODES = 2_000
# A graph search looks at some tens of vectors for each one it returns.
VECTORS_SEEN = 32
FILTER_SPARE = 1.5
CANARIES = 8
# Most that float32 and a stored vector's length may take off a cosine of 1.
CANARY_SLACK = 1e-3


@dataclass(frozen=True)
class Hit:
    """An item that was found; `score` is the cosine, `attributes` are those of its catalogue row."""

    item_id: str
    score: float
    supplier_id: str | None
    category: str | None
    attributes: dict[str, Any]
    node_key: str


@dataclass(frozen=True)
class Wish:
    """What a search is asked for, besides its vectors."""

    k: int
    where: pc.Expression | None
    exclude_items: frozenset[str]
    exclude_suppliers: frozenset[str]
    items_per_node: int


class LoadedShard:
    """A graph in memory with its item file; nodes without a living item are marked deleted."""

    def __init__(self, graph: hnswlib.Index, items: ItemFile) -> None:
        self.graph = graph
        self.items = items
        self.living = items.nodes_with(items.alive)
        for label in np.setdiff1d(np.arange(items.nodes), self.living):
            graph.mark_deleted(int(label))

    @classmethod
    def load(cls, cache: Cache, index: Index, shard: Shard) -> "LoadedShard":
        """Download, verify and open. Raises IntegrityError."""
        graph = load_graph(cache.fetch(shard.graph), index, shard)
        loaded = cls(graph, ItemFile.load(cache.fetch(shard.items_file), shard))
        loaded.answer_canaries(f"{index.module}/{index.view} shard {shard.shard}")
        return loaded

    def answer_canaries(self, name: str) -> None:
        """Search for some of its own vectors, which warms it. Raises IntegrityError where none is found."""
        if len(self.living) == 0:
            return
        places = np.linspace(0, len(self.living) - 1, num=min(CANARIES, len(self.living)), dtype=np.int64)
        sample = self.living[places]
        vectors = np.asarray(self.graph.get_items(sample), dtype=np.float32)
        _, scores = self.nearest(vectors, 1)
        if scores.max() < 1 - CANARY_SLACK:
            raise IntegrityError(f"{name}: searching for {len(sample)} of its own vectors found none")

    def nearest(self, vectors: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """(labels int64, cosines float32), each (q, min(k, living nodes)), best first."""
        k = min(k, len(self.living))
        if k == 0:
            return np.empty((len(vectors), 0), np.int64), np.empty((len(vectors), 0), np.float32)
        try:
            labels, distances = self.graph.knn_query(vectors, k=k, num_threads=1)
        except RuntimeError:  # hnswlib reached fewer than k nodes
            return search_exactly(self.graph, self.living, vectors, k)
        return labels.astype(np.int64), 1 - distances

    def search(self, vectors: np.ndarray, wish: Wish) -> list[list[Hit]]:
        """For each vector the items of the nearest nodes: at least k, unless there are fewer."""
        # an excluded item can use up at most one node
        nodes = wish.k + len(wish.exclude_items)
        if wish.where is None and not wish.exclude_suppliers:
            rows = self.items.alive
            labels, scores = self.nearest(vectors, nodes)
            found = [list(zip(*pair, strict=True)) for pair in zip(labels.tolist(), scores.tolist(), strict=True)]
        else:
            rows = self.items.passing(wish.where, wish.exclude_suppliers)
            found = list(self.nearest_passing(vectors, nodes, self.items.nodes_with(rows)))
        return self.hits(found, rows, wish)

    def nearest_passing(self, vectors: np.ndarray, k: int, passing: np.ndarray) -> Iterator[list[tuple[int, float]]]:
        """(label, cosine) of the nearest among the labels `passing`, for each vector.

        Through the graph where many pass; exactly where few do, or where the graph brought too few.
        """
        k = min(k, len(passing))
        fetch = math.ceil(FILTER_SPARE * k * len(self.living) / max(1, len(passing))) + 10
        few = len(passing) <= max(FEW_NODES, VECTORS_SEEN * fetch)
        labels, scores = search_exactly(self.graph, passing, vectors, k) if few else self.nearest(vectors, fetch)
        allowed = np.zeros(self.items.nodes, dtype=bool)
        allowed[passing] = True
        for query, (own_labels, own_scores) in enumerate(zip(labels, scores, strict=True)):
            kept = allowed[own_labels]
            if np.count_nonzero(kept) < k:
                own_labels, own_scores = (a[0] for a in search_exactly(self.graph, passing, vectors[query:][:1], k))
                kept = slice(None)
            yield list(zip(own_labels[kept][:k].tolist(), own_scores[kept][:k].tolist(), strict=True))

    def hits(self, found: list[list[tuple[int, float]]], rows: np.ndarray, wish: Wish) -> list[list[Hit]]:
        """Nodes to items: of each node the first `items_per_node` that may be shown."""
        places: list[tuple[int, float]] = []
        counts: list[int] = []
        for nodes in found:
            before = len(places)
            for label, score in nodes:
                places += [(row, score) for row in self.members(label, rows, wish)]
            counts.append(len(places) - before)
        rows_taken = np.array([row for row, _ in places], dtype=np.int64)
        taken = self.items.table.take(rows_taken).to_pylist()
        made = iter([as_hit(row, score) for row, (_, score) in zip(taken, places, strict=True)])
        return [[next(made) for _ in range(count)] for count in counts]

    def members(self, label: int, rows: np.ndarray, wish: Wish) -> list[int]:
        """Rows of a node's items that may be shown, by item id."""
        start, end = self.items.starts[label : label + 2]
        candidates = (start + np.flatnonzero(rows[start:end])).tolist()
        if wish.exclude_items:
            ids = self.items.table["item_id"]
            candidates = [row for row in candidates if ids[row].as_py() not in wish.exclude_items]
        return candidates[: wish.items_per_node]


def as_hit(row: dict[str, Any], score: float) -> Hit:
    attributes = row.get("attributes") or {}
    return Hit(row["item_id"], score, row["supplier_id"], row["category"], attributes, row["node_key"])
