"""An hnswlib file (0.8.0) mapped into memory: its links and vectors, of which only what is looked at is read."""

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np

# What the file begins with. The lowest level follows, a row a node: its links, its vector, its label; then the upper
# levels, for each node how many bytes they take, mostly none, and the links of each.
FIELDS = (
    ("<u8", "offset_level0 max_nodes nodes width label_offset vector_offset"),
    ("<i4", "max_level"),
    ("<u4", "entry"),
    ("<u8", "max_m max_m0 m"),
    ("<f8", "mult"),
    ("<u8", "ef_construction"),
)
HEADER = np.dtype([(name, kind) for kind, names in FIELDS for name in names.split()])
BLOCK = 4096


class Level0:
    """The lowest level, which holds all nodes, in hnswlib's internal numbers: node -> its neighbours, int64.

    counts: (nodes,) uint16; links: (nodes, most) uint32, of which `counts` are valid.
    """

    def __init__(self, counts: np.ndarray, links: np.ndarray) -> None:
        self.counts, self.links = counts, links

    def __len__(self) -> int:
        return len(self.counts)

    def __getitem__(self, node: int) -> np.ndarray:
        return self.links[node, : self.counts[node]].astype(np.int64)

    def targets(self, nodes: np.ndarray) -> Iterator[np.ndarray]:
        """What these nodes link to, in portions."""
        for start in range(0, len(nodes), BLOCK):
            part = nodes[start : start + BLOCK]
            links = self.links[part]
            yield links[np.arange(links.shape[1]) < self.counts[part][:, None]]


def labels_and_vectors(rows: np.ndarray, header: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(nodes,) int64 and (nodes, dim) float32 of rows of the lowest level."""
    label_at = int(header["label_offset"])
    vectors = rows[:, int(header["vector_offset"]) : label_at].view(np.float32)
    return np.ascontiguousarray(rows[:, label_at:]).view(np.int64).ravel(), vectors


def read_nodes(path: Path) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Labels and vectors of a file's nodes, in portions that are read: what is mapped counts as a process's memory."""
    header = np.fromfile(path, HEADER, count=1)[0]
    nodes, width = int(header["nodes"]), int(header["width"])
    for start in range(0, nodes, BLOCK):
        count = min(BLOCK, nodes - start)
        rows = np.fromfile(path, np.uint8, count * width, offset=HEADER.itemsize + start * width)
        yield labels_and_vectors(rows.reshape(count, width), header)


class GraphFile:
    """Only of a file that was verified by checksum, or just written.

    vectors: (nodes, dim) float32; labels: (nodes,) int64; entry: the node where searches begin.
    """

    def __init__(self, path: Path) -> None:
        header = np.fromfile(path, HEADER, count=1)[0]
        nodes, width = int(header["nodes"]), int(header["width"])
        rows = np.memmap(path, np.uint8, "r", HEADER.itemsize, (nodes, width))
        links = rows[:, 4 : 4 + 4 * int(header["max_m0"])].view(np.uint32)
        self.level0 = Level0(np.ascontiguousarray(rows[:, :2]).view(np.uint16).ravel(), links)
        self.labels, self.vectors = labels_and_vectors(rows, header)
        self.entry = int(header["entry"])
        self._upper = path, HEADER.itemsize + nodes * width, 1 + int(header["max_m"]), int(header["max_level"])

    def upper(self) -> list[dict[int, np.ndarray]]:
        """Levels 1, 2, ...: node -> its neighbours there."""
        path, offset, words_a_level, highest = self._upper
        words = np.fromfile(path, np.uint32, offset=offset)
        levels, place = defaultdict[int, dict[int, np.ndarray]](dict), 0
        for node in range(len(self.labels)):
            size = int(words[place]) // 4
            for level in range(size // words_a_level):
                part = words[place + 1 + level * words_a_level :]
                levels[level][node] = part[1 : 1 + (int(part[0]) & 0xFFFF)].astype(np.int64)
            place += 1 + size
        return [levels[level] for level in range(highest)]
