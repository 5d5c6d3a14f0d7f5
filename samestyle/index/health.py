"""The health of a graph: can every vector find itself, and how does the graph hang together?"""

from pathlib import Path

import hnswlib
import numpy as np

from samestyle.index.exact import held_nodes
from samestyle.index.graph_file import BLOCK, GraphFile, read_nodes
from samestyle.index.nodes import TIE, GraphHealth

# The last is wide enough that a healthy graph has no orphan, narrow enough that an unreachable corner shows. What a
# narrower search finds a wider one finds as well, so that most vectors never need it: a sixth of its time, measured.
ORPHAN_EFS = (1, 10, 100)
QUANTILES = (0, 0.05, 0.5, 0.95, 1)


def find_orphans(index: hnswlib.Index, path: Path) -> np.ndarray:
    """Labels (int64) of the vectors whose own search finds neither themselves nor an equal; `path`: its saved file.

    From the file, because hnswlib hands vectors out as Python's numbers: that took longer than the search, measured.
    """
    return np.concatenate([np.empty(0, np.int64), *[unfound(index, *block) for block in read_nodes(path)]])


def unfound(index: hnswlib.Index, labels: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """Those of the labels whose vectors do not find themselves."""
    for ef in ORPHAN_EFS:
        if len(labels) == 0:
            break
        index.set_ef(ef)
        _, distances = index.knn_query(vectors, k=1, num_threads=1)
        lost = distances[:, 0] > 1 - np.einsum("ij,ij->i", vectors, vectors) + TIE
        labels, vectors = labels[lost], vectors[lost]
    return labels


def repair_orphans(index: hnswlib.Index, orphans: np.ndarray, path: Path, rounds: int = 3) -> np.ndarray:
    """Insert orphans again, which links them anew (hnswlib's update of a point); returns those that are left.

    The file `path` is not written: a vector stays what it was.
    """
    for _ in range(rounds):
        if len(orphans) == 0:
            break
        for labels, vectors in held_nodes(index, orphans, BLOCK):
            index.add_items(vectors, labels, num_threads=1)
        orphans = find_orphans(index, path)
    return orphans


def graph_health(path: Path) -> GraphHealth:
    """How the graph of an hnswlib file hangs together."""
    graph = GraphFile(path)
    linked = np.zeros(len(graph.level0), dtype=bool)
    for targets in graph.level0.targets(np.arange(len(linked))):
        linked[targets] = True
    degrees = np.quantile(graph.level0.counts, QUANTILES, method="nearest")
    return GraphHealth(tuple(int(n) for n in degrees), int((~linked).sum()), float(reached(graph).mean()))


def reached(graph: GraphFile) -> np.ndarray:
    """(nodes,) bool: which ones a walk from the entry point along the lowest level's links comes to."""
    known = np.zeros(len(graph.level0), dtype=bool)
    known[graph.entry] = True
    front = np.array([graph.entry])
    while len(front):
        before = known.copy()
        for targets in graph.level0.targets(front):
            known[targets] = True
        front = np.flatnonzero(known & ~before)
    return known
