"""The health of a graph: can every vector find itself, and how does the graph hang together?"""

from pathlib import Path

import hnswlib
import numpy as np

from samestyle.index.graph_file import GraphFile
from samestyle.index.nodes import TIE, GraphHealth

# The last is wide enough that a healthy graph has no orphan, narrow enough that an unreachable corner shows. What a
# narrower search finds a wider one finds as well, so that most vectors never need it: a sixth of its time, measured.
ORPHAN_EFS = (1, 10, 100)
BLOCK = 4096
QUANTILES = (0, 0.05, 0.5, 0.95, 1)


def find_orphans(index: hnswlib.Index, labels: np.ndarray | None = None) -> np.ndarray:
    """Labels (int64) of the vectors whose own search finds neither themselves nor an equal. Looks at all by default."""
    wanted = np.sort(np.asarray(index.get_ids_list(), dtype=np.int64)) if labels is None else labels
    for ef in ORPHAN_EFS:
        index.set_ef(ef)
        left = [find_in_block(index, wanted[start : start + BLOCK]) for start in range(0, len(wanted), BLOCK)]
        wanted = np.concatenate([np.empty(0, np.int64), *left])
    return wanted


def find_in_block(index: hnswlib.Index, labels: np.ndarray) -> np.ndarray:
    vectors = np.asarray(index.get_items(labels), dtype=np.float32)
    _, distances = index.knn_query(vectors, k=1, num_threads=1)
    own = 1 - np.einsum("ij,ij->i", vectors, vectors)
    return labels[distances[:, 0] > own + TIE]


def repair_orphans(index: hnswlib.Index, orphans: np.ndarray, rounds: int = 3) -> np.ndarray:
    """Insert orphans again, which links them anew (hnswlib's update of a point); returns those that are left."""
    for _ in range(rounds):
        if len(orphans) == 0:
            break
        index.add_items(index.get_items(orphans), orphans, num_threads=1)
        orphans = find_orphans(index)
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
