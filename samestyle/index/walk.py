"""How much a query costs a graph: hnswlib's search repeated step by step, because hnswlib does not say."""

import heapq
import tempfile
from pathlib import Path

import hnswlib
import numpy as np

from samestyle.index.graph_file import GraphFile


class Walk:
    """One graph's links and vectors, mapped from its file, which takes hardly any memory.

    Nodes are hnswlib's internal ones; `labels` (nodes,) int64 names them.

    dead: labels that are marked as deleted, which a search passes through and does not return.
    """

    def __init__(self, graph: GraphFile, dead: np.ndarray | None = None) -> None:
        self.vectors, self.labels, self.entry = graph.vectors, graph.labels, graph.entry
        self.level0, self.upper = graph.level0, graph.upper()
        self.living = ~np.isin(self.labels, [] if dead is None else dead)
        self.deletions = not self.living.all()

    @classmethod
    def of(cls, index: hnswlib.Index, dead: np.ndarray | None = None) -> "Walk":
        """Of an index, by way of its file, which is gone afterwards but for what is mapped of it."""
        with tempfile.TemporaryDirectory(prefix="samestyle-walk-") as folder:
            index.save_index(f"{folder}/graph")
            return cls(GraphFile(Path(folder) / "graph"), dead)

    def search(self, query: np.ndarray, k: int, ef: int) -> tuple[np.ndarray, int]:
        """Labels (int64) of the k nearest, as `knn_query` finds them, and the number of vectors compared with."""
        node, compared = self.entry, 1
        nearest = self.distances(query, [node])[0]
        for links in reversed(self.upper):
            moved = True
            while moved:
                near = links[node]
                distances = self.distances(query, near)
                compared += len(near)
                moved = len(near) > 0 and distances.min() < nearest
                if moved:
                    node, nearest = int(near[distances.argmin()]), distances.min()
        found, seen = self.search_level0(query, node, max(k, ef))
        return self.labels[[node for _, node in sorted((-d, node) for d, node in found)[:k]]], compared + seen

    def search_level0(self, query: np.ndarray, start: int, ef: int) -> tuple[list[tuple[float, int]], int]:
        """The ef nearest living nodes as (-distance, node), and the number of vectors compared with."""
        visited = np.zeros(len(self.labels), dtype=bool)
        visited[start] = True
        compared, distance = 1, float(self.distances(query, [start])[0])
        best = [(-distance, start)] if self.living[start] else []
        bound = distance if best else np.inf
        candidates = [(distance if best else np.inf, start)]
        while candidates:
            distance, node = heapq.heappop(candidates)
            if distance > bound and (len(best) == ef or not self.deletions):
                break
            near = self.level0[node]
            near = near[~visited[near]]
            visited[near] = True
            compared += len(near)
            for distance, node in zip(self.distances(query, near).tolist(), near.tolist(), strict=True):
                if len(best) >= ef and distance >= bound:
                    continue
                heapq.heappush(candidates, (distance, node))
                if self.living[node]:
                    heapq.heappush(best, (-distance, node))
                if len(best) > ef:
                    heapq.heappop(best)
                if best:
                    bound = -best[0][0]
        return best, compared

    def distances(self, query: np.ndarray, nodes: np.ndarray | list[int]) -> np.ndarray:
        return 1 - self.vectors[nodes] @ query
