"""Nodes: what a graph holds. One node stands for all items whose vector is made of the same parts.

Exact copies inside a graph cost recall and make vectors that cannot find themselves: they are one node, many members.
"""

from dataclasses import dataclass

# hnswlib's inner product on unit vectors is the cosine; its distance is 1 - cosine.
SPACE = "ip"
# Unit vectors of float32 are equal to about this much; closer distances count as ties.
TIE = 1e-6
# Measured bytes a vector beyond the file's: its lock, level, entry in the table of labels, allocations.
OVERHEAD = 160
# Measured bytes of a worker before it builds: Python with numpy, pyarrow and hnswlib.
PROCESS = 180 * 2**20


@dataclass(frozen=True)
class GraphHealth:
    """How the lowest level of a graph hangs together, which holds all nodes.

    degrees: links of a node, the quantiles 0, .05, .5, .95 and 1. unlinked: nodes that no other one links to.
    reachable: share of the nodes that can be walked to from the entry point along this level's links.
    """

    degrees: tuple[int, ...]
    unlinked: int
    reachable: float


@dataclass(frozen=True)
class GraphParameters:
    """How a graph is built. `dim` floats a vector, `m` links a node, `ef_construction` candidates at insertion."""

    dim: int
    m: int
    ef_construction: int
    seed: int
    add_rows: int = 10_000

    def bytes_per_vector(self) -> int:
        """Resident bytes a vector: the file's layout, and what hnswlib keeps beside it in memory."""
        upper = (4 * self.m + 4) / (self.m - 1)  # a node in m has a level more
        return round(4 + 8 * self.m + 4 * self.dim + 8 + upper + OVERHEAD)

    def build_bytes(self, nodes: int) -> int:
        """Resident bytes of the process that builds a shard of so many nodes."""
        return PROCESS + 3 * 4 * self.dim * min(nodes, self.add_rows) + nodes * self.bytes_per_vector()

    def rows_within(self, memory: int) -> int:
        """The most nodes of a shard whose building fits `memory` bytes; 0 where none does."""
        return max(0, memory - self.build_bytes(0) - 3 * 4 * self.dim * self.add_rows) // self.bytes_per_vector()
