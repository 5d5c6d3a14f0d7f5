"""How much a query costs a graph: hnswlib's search repeated step by step, because hnswlib does not say."""

import heapq
from collections.abc import Iterator

import hnswlib
import numpy as np

from samestyle.index.graph_file import GraphFile, Level0


class Walk:
    """One graph's links and vectors, of an index or of its file, which takes hardly any memory.

    Nodes are hnswlib's internal ones; `labels` (nodes,) int64 names them.

    dead: labels that are marked as deleted, which a search passes through and does not return.
    """

    def __init__(self, graph: hnswlib.Index | GraphFile, dead: np.ndarray | None = None) -> None:
        if isinstance(graph, GraphFile):
            self.vectors, self.labels, self.entry = graph.vectors, graph.labels, graph.entry
            self.level0: list[np.ndarray] | Level0 = graph.level0
            self.upper = graph.upper()
        else:
            self.copy(graph)
        self.living = ~np.isin(self.labels, [] if dead is None else dead)
        self.deletions = not self.living.all()

    def copy(self, index: hnswlib.Index) -> None:
        """Everything from the index, at several times its memory."""
        state = index.__getstate__()[0]
        nodes, width = state["cur_element_count"], state["size_data_per_element"]
        level0 = state["data_level0"].view(np.uint8)[: nodes * width].reshape(nodes, width)
        vectors = level0[:, state["offset_data"] : state["label_offset"]]
        self.vectors = np.ascontiguousarray(vectors).view(np.float32)
        self.labels = np.ascontiguousarray(level0[:, state["label_offset"] :]).view(np.int64).ravel()
        self.level0 = link_lists(level0[:, : state["offset_data"]])
        self.upper = list(upper_levels(state))
        self.entry = int(state["enterpoint_node"])

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


def link_lists(data: np.ndarray) -> list[np.ndarray]:
    """(nodes, bytes) uint8 of one level -> each node's neighbours: a count in two bytes, two of flags, the links."""
    counts = np.ascontiguousarray(data[:, :2]).view(np.uint16).ravel()
    links = np.ascontiguousarray(data[:, 4:]).view(np.uint32).astype(np.int64)
    return [row[:count] for row, count in zip(links, counts, strict=True)]


def upper_levels(state: dict) -> Iterator[dict[int, np.ndarray]]:
    """Levels 1, 2, ...: node -> its neighbours there. A node's levels lie one after the other."""
    width, levels = state["size_links_per_element"], state["element_levels"]
    lists = link_lists(state["link_lists"].view(np.uint8).reshape(-1, width))
    starts = np.concatenate([[0], np.cumsum(levels)])
    for level in range(1, state["max_level"] + 1):
        yield {int(node): lists[starts[node] + level - 1] for node in np.flatnonzero(levels >= level)}
