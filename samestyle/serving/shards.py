"""One shard in memory: its graph, its items, and how they are searched together."""

import math
from dataclasses import dataclass
from threading import Lock
from typing import Any, NamedTuple

import hnswlib
import numpy as np
import pyarrow.compute as pc

from samestyle.errors import IntegrityError
from samestyle.release.manifest import Index, Shard
from samestyle.serving.cache import Cache
from samestyle.serving.graph import load_graph, search_exactly
from samestyle.serving.items import ItemFile, Selection

# Comparing with a vector exactly takes as long as finding ten through the graph: hnswlib hands vectors out as Python's
# numbers, measured.
EXACT_COST = 10
FILTER_SPARE = 1.5
CANARIES = 8
# Most that float32 and a stored vector's length may take off a cosine of 1.
CANARY_SLACK = 1e-3
# For each query the labels and the cosines of nodes, best first; one array where all have the same length.
Found = tuple[np.ndarray | list[np.ndarray], np.ndarray | list[np.ndarray]]


class Hit(NamedTuple):
    """An item that was found; `score` is the cosine. The rest is looked up in its row when it is asked for.

    A tuple, because a search makes ten of them while nothing is left in the processor's cache.
    """

    item_id: str
    score: float
    source: ItemFile
    row: int

    def __repr__(self) -> str:
        return f"Hit(item_id={self.item_id!r}, score={self.score!r})"

    @property
    def supplier_id(self) -> str | None:
        return self.source.suppliers[self.row]

    @property
    def category(self) -> str | None:
        return self.source.categories[self.row]

    @property
    def attributes(self) -> dict[str, Any]:
        names = self.source.table.column_names
        return (self.source.table["attributes"][self.row].as_py() if "attributes" in names else None) or {}

    @property
    def node_key(self) -> str:
        return self.source.table["node_key"][self.row].as_py()


@dataclass(slots=True)
class Wish:
    """What a search is asked for, besides its vectors."""

    k: int
    where: pc.Expression | None = None
    exclude_items: frozenset[str] = frozenset()
    exclude_suppliers: frozenset[str] = frozenset()
    items_per_node: int = 3
    items_per_supplier: int | None = None


class LoadedGraph:
    """A graph in memory. Releases that share the file share it; which nodes are dead is set when one serves."""

    def __init__(self, graph: hnswlib.Index, sha256: str, nodes: int) -> None:
        self.graph, self.sha256 = graph, sha256
        self.dead = np.zeros(nodes, dtype=bool)
        self._turn = Lock()

    def serve(self, living: np.ndarray, ef: int) -> None:
        """Find only the nodes `living`. Searches may be on their way: each looks at a node's mark as it passes."""
        dead = np.ones(len(self.dead), dtype=bool)
        dead[living] = False
        with self._turn:
            died, revived = np.flatnonzero(dead & ~self.dead), np.flatnonzero(self.dead & ~dead)
            for label in died.tolist():
                self.graph.mark_deleted(label)
            for label in revived.tolist():
                self.graph.unmark_deleted(label)
            self.dead = dead
        self.graph.set_ef(ef)

    def search(self, vectors: np.ndarray, k: int, living: np.ndarray) -> Found:
        """Through the graph, where at least k nodes are `living`."""
        try:
            labels, distances = self.graph.knn_query(vectors, k=k, num_threads=1)
        except RuntimeError:  # hnswlib reached fewer than k nodes
            return self.search_exactly(vectors, k, living)
        return labels, 1 - distances

    def search_exactly(self, vectors: np.ndarray, k: int, labels: np.ndarray) -> Found:
        """Over the nodes `labels`, as far as they are not marked dead."""
        try:
            return search_exactly(self.graph, labels[~self.dead[labels]], vectors, k)
        except RuntimeError:  # hnswlib hands out no vector of a dead node: another release is being switched to
            with self._turn:
                return search_exactly(self.graph, labels[~self.dead[labels]], vectors, k)


class LoadedShard:
    """A graph with its item file, as one release has them."""

    def __init__(self, loaded: LoadedGraph, items: ItemFile, ef: int, number: int) -> None:
        self.loaded, self.items, self.ef, self.number = loaded, items, ef, number
        self.graph, self.places = loaded.graph, items.living.places  # made here, and not by the first search

    @classmethod
    def load(cls, cache: Cache, index: Index, shard: Shard, loaded: LoadedGraph | None = None) -> "LoadedShard":
        """Download, verify, open, try; `loaded`: this shard's graph where it is in memory. Raises IntegrityError."""
        items = ItemFile.load(cache.fetch(shard.items_file), shard)
        if loaded is None:
            path = cache.fetch(shard.graph)
            loaded = LoadedGraph(load_graph(path, index, shard), shard.graph.sha256, shard.nodes)
            loaded.serve(items.living.nodes, index.ef_search)
        opened = cls(loaded, items, index.ef_search, shard.shard)
        opened.answer_canaries(f"{index.module}/{index.view} shard {shard.shard}")
        return opened

    def without(self, denied: frozenset[str]) -> "LoadedShard":
        """The same graph, whose items are shown unless they are denied."""
        return LoadedShard(self.loaded, self.items.without(denied), self.ef, self.number)

    def serve(self) -> None:
        """From here on searches meet the living nodes of this release."""
        self.loaded.serve(self.items.living.nodes, self.ef)

    def answer_canaries(self, name: str) -> None:
        """Search for some of its own vectors, which warms it. Raises IntegrityError where none is found."""
        living = np.flatnonzero(~self.loaded.dead)
        if len(living) == 0:
            return
        sample = living[np.linspace(0, len(living) - 1, num=min(CANARIES, len(living)), dtype=np.int64)]
        vectors = np.asarray(self.graph.get_items(sample), dtype=np.float32)
        _, distances = self.graph.knn_query(vectors, k=1, num_threads=1)
        if (1 - distances).max() < 1 - CANARY_SLACK:
            raise IntegrityError(f"{name}: searching for {len(sample)} of its own vectors found none")

    def nearest(self, vectors: np.ndarray, k: int, passing: Selection) -> Found:
        """The k best of the passing nodes for each vector, fewer if there are fewer.

        Through the graph where many pass; exactly where that is faster, or where the graph brought too few.
        """
        living, nodes = self.items.living.nodes, passing.nodes
        k = min(k, len(nodes))
        if k == 0:
            return np.empty((len(vectors), 0), np.int64), np.empty((len(vectors), 0), np.float32)
        if passing is self.items.living:
            return self.loaded.search(vectors, k, nodes)
        fetch = math.ceil(FILTER_SPARE * k * len(living) / len(nodes)) + 10
        if EXACT_COST * len(nodes) <= fetch:
            return self.loaded.search_exactly(vectors, k, nodes)
        return self.kept(vectors, self.loaded.search(vectors, min(fetch, len(living)), living), k, passing)

    def kept(self, vectors: np.ndarray, found: Found, k: int, passing: Selection) -> Found:
        """Of what the graph brought the first k that pass; exact search where it brought too few."""
        labels: list[np.ndarray] = []
        scores: list[np.ndarray] = []
        for vector, own_labels, own_scores in zip(vectors, *found, strict=True):
            passes = passing.allowed[own_labels]
            own_labels, own_scores = own_labels[passes], own_scores[passes]
            if len(own_labels) < k:
                own_labels, own_scores = (
                    found[0] for found in self.loaded.search_exactly(vector[None], k, passing.nodes)
                )
            labels.append(own_labels[:k])
            scores.append(own_scores[:k])
        return labels, scores
