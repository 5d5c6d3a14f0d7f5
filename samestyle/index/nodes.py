"""Nodes: what a graph holds. One node stands for all items whose vector is made of the same parts.

Exact copies inside a graph cost recall and make vectors that cannot find themselves: they are one node, many members.
"""

from dataclasses import dataclass

# hnswlib's inner product on unit vectors is the cosine; its distance is 1 - cosine.
SPACE = "ip"
# Unit vectors of float32 are equal to about this much; closer distances count as ties.
TIE = 1e-6


@dataclass(frozen=True)
class GraphParameters:
    """How a graph is built. `dim` floats a vector, `m` links a node, `ef_construction` candidates at insertion."""

    dim: int
    m: int
    ef_construction: int
    seed: int
    add_rows: int = 10_000

    def bytes_per_vector(self) -> int:
        """Resident bytes a vector: hnswlib's level 0, label, upper layers (1/m of a level each), allocation overhead.

        The file's layout gives 4 + 8m + 4 dim + 8; resident memory was measured 1.25 times that.
        """
        return round(1.25 * (4 + 8 * self.m + 4 * self.dim + 8))
