"""The health of a graph: can every vector find itself, and how does the graph hang together?"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import hnswlib
import numpy as np

from samestyle.index.nodes import TIE, GraphHealth

# The last is wide enough that a healthy graph has no orphan, narrow enough that an unreachable corner shows. What a
# narrower search finds a wider one finds as well, so that most vectors never need it: a sixth of its time, measured.
ORPHAN_EFS = (1, 10, 100)
BLOCK = 4096
# What an hnswlib file (0.8.0) begins with; the lowest level follows, a row a node: its links, vector and label.
HEADER = np.dtype(
    [(name, "<u8") for name in ("offset_level0", "max_nodes", "nodes", "width", "label_offset", "vector_offset")]
    + [("max_level", "<i4"), ("entry", "<u4"), ("max_m", "<u8"), ("max_m0", "<u8"), ("m", "<u8"), ("mult", "<f8")]
    + [("ef_construction", "<u8")]
)
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


@dataclass(frozen=True)
class Level0:
    """The links of a graph's lowest level, read from its file as needed.

    counts: (nodes,) uint16; links: (nodes, most) uint32, of which `counts` are valid; entry: where searches begin.
    """

    counts: np.ndarray
    links: np.ndarray
    entry: int

    @classmethod
    def of_file(cls, path: Path) -> "Level0":
        """Only of a file that was verified by checksum, or just written."""
        header = np.fromfile(path, HEADER, count=1)[0]
        rows = np.memmap(path, np.uint8, "r", HEADER.itemsize, (int(header["nodes"]), int(header["width"])))
        links = rows[:, 4 : 4 + 4 * int(header["max_m0"])].view(np.uint32)
        return cls(np.ascontiguousarray(rows[:, :2]).view(np.uint16).ravel(), links, int(header["entry"]))

    def targets(self, nodes: np.ndarray) -> Iterator[np.ndarray]:
        """What these nodes link to, in portions."""
        for start in range(0, len(nodes), BLOCK):
            part = nodes[start : start + BLOCK]
            links = self.links[part]
            yield links[np.arange(links.shape[1]) < self.counts[part][:, None]]


def graph_health(path: Path) -> GraphHealth:
    """How the graph of an hnswlib file hangs together."""
    level = Level0.of_file(path)
    linked = np.zeros(len(level.counts), dtype=bool)
    for targets in level.targets(np.arange(len(linked))):
        linked[targets] = True
    degrees = np.quantile(level.counts, QUANTILES, method="nearest")
    return GraphHealth(tuple(int(n) for n in degrees), int((~linked).sum()), float(reached(level).mean()))


def reached(level: Level0) -> np.ndarray:
    """(nodes,) bool: which ones a walk from the entry point along the links comes to."""
    known = np.zeros(len(level.counts), dtype=bool)
    known[level.entry] = True
    front = np.array([level.entry])
    while len(front):
        before = known.copy()
        for targets in level.targets(front):
            known[targets] = True
        front = np.flatnonzero(known & ~before)
    return known
