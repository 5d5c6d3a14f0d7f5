"""Retrieval in nine directions, query view - pool view: where does the first relevant product stand?

i is a product's photo, t its title, m both fused. Ties are counted fairly: a value is its mean over all orders of what
ties with the best relevant row, so that the order of the rows decides nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from samestyle.errors import UsageError
from samestyle.index.nodes import TIE

VIEW_OF = {"i": "image", "t": "text", "m": "fused"}
DIRECTIONS = tuple(f"{query}-{pool}" for query in VIEW_OF for pool in VIEW_OF)
KS = (1, 5, 10, 20)
BLOCK = 512  # queries scored at once: 512 x 100,000 cosines are 200 MB


@dataclass(frozen=True)
class Counts:
    """What decides each query's rank; (queries,) int64 each. Sums of the counts of parts of a pool are its counts."""

    above: np.ndarray
    """Irrelevant rows that score more than the best relevant one, by more than TIE."""
    tied: np.ndarray
    """Irrelevant rows within TIE of it."""
    relevant: np.ndarray
    """Relevant rows within TIE of it, itself included."""


@dataclass(frozen=True)
class Ranks:
    """The first relevant row of each query that has one. `rows`: positions among the queries given, ascending."""

    rows: np.ndarray
    reciprocal: np.ndarray
    """(rows,) float64, 1 / rank."""
    hits: dict[int, np.ndarray]
    """k to (rows,) float64: is a relevant row among the first k."""

    @property
    def values(self) -> dict[str, np.ndarray]:
        """Name of a metric to its value of each query: mrr, recall@1, recall@5, recall@10, recall@20."""
        return {"mrr": self.reciprocal} | {f"recall@{k}": hit for k, hit in self.hits.items()}


@dataclass(frozen=True)
class Measured:
    """One direction: its queries' ranks, and how many pool rows have the view that is searched."""

    ranks: Ranks
    pool: int

    @property
    def aggregates(self) -> dict[str, float]:
        """Means over the queries (nan where there is none), and the numbers of queries and pool rows."""
        means = {name: float(values.mean()) if len(values) else np.nan for name, values in self.ranks.values.items()}
        return means | {"queries": len(self.ranks.rows), "pool": self.pool}


def measure(
    query_views: Mapping[str, np.ndarray],
    pool_views: Mapping[str, np.ndarray],
    relevant: np.ndarray,
    excluded: np.ndarray,
    directions: Sequence[str] = DIRECTIONS,
) -> dict[str, Measured]:
    """Search the pool in each direction.

    query_views, pool_views: "image", "text", "fused" to (queries, dim) and (pool, dim) float32 of unit length, as
    Encoder.encode gives them; a zero row lacks that view. relevant, excluded: (queries, pool) bool.
    Raises UsageError for an unknown direction and for shapes that do not fit.
    """
    unknown = sorted(set(directions) - set(DIRECTIONS))
    if unknown:
        raise UsageError(f"unknown direction {', '.join(unknown)}: choose from {', '.join(DIRECTIONS)}")
    result = {}
    for direction in directions:
        query, pool = (VIEW_OF[letter] for letter in direction.split("-"))
        found = ranks(query_views[query], pool_views[pool], relevant, excluded)
        result[direction] = Measured(found, int(present(pool_views[pool]).sum()))
    return result


def ranks(queries: np.ndarray, pool: np.ndarray, relevant: np.ndarray, excluded: np.ndarray) -> Ranks:
    """Fair ranks of the queries that have a relevant row. Zero vectors take no part, nor do excluded rows.

    queries: (q, dim), pool: (p, dim); relevant, excluded: (q, p) bool.

    >>> pool = np.array([[1.0, 0], [0.8, 0.6], [0.8, 0.6]])
    >>> same = np.array([[False, True, False]])  # behind the first, and tied with the third
    >>> ranks(np.array([[1.0, 0]]), pool, same, ~same & False).reciprocal  # (1/2 + 1/3) / 2
    array([0.41666667])
    """
    check_shapes(queries, pool, relevant, excluded)
    columns = np.flatnonzero(present(pool))
    searched = pool[columns]
    counts: list[Counts] = []
    rows: list[np.ndarray] = []
    for start in range(0, len(queries), BLOCK):
        block = start + np.flatnonzero(present(queries[start : start + BLOCK]))
        allowed = ~excluded[np.ix_(block, columns)]
        right = relevant[np.ix_(block, columns)] & allowed
        kept = right.any(axis=1)
        rows.append(block[kept])
        scores = queries[block[kept]] @ searched.T
        counts.append(count(scores, right[kept], allowed[kept], best(scores, right[kept])))
    return expected_ranks(np.concatenate([np.zeros(0, np.int64), *rows]), joined(counts))


def best(scores: np.ndarray, relevant: np.ndarray) -> np.ndarray:
    """(queries,) the highest score of a relevant row, -inf where there is none. scores, relevant: (queries, pool)."""
    return np.where(relevant, scores, -np.inf).max(axis=1, initial=-np.inf)


def count(scores: np.ndarray, relevant: np.ndarray, allowed: np.ndarray, best: np.ndarray) -> Counts:
    """What stands above and beside the best relevant score. scores, relevant, allowed: (queries, pool)."""
    wrong = allowed & ~relevant
    above = scores > best[:, None] + TIE
    beside = ~above & (scores >= best[:, None] - TIE)
    return Counts((wrong & above).sum(axis=1), (wrong & beside).sum(axis=1), (relevant & allowed & beside).sum(axis=1))


def expected_ranks(rows: np.ndarray, counts: Counts) -> Ranks:
    """Reciprocal rank and hits, in the mean over all orders of the tied rows."""
    above, tied, relevant = counts.above, counts.tied, counts.relevant
    reciprocal = 1 / (above + 1.0)
    for row in np.flatnonzero(tied):
        chances = first_of_tied(int(tied[row]), int(relevant[row]))
        reciprocal[row] = float(chances @ (1 / (above[row] + 1.0 + np.arange(len(chances)))))
    hits = {k: (above < k).astype(float) for k in KS}
    for row in np.flatnonzero(tied):
        chances = np.cumsum(first_of_tied(int(tied[row]), int(relevant[row])))
        for k in KS:
            places = k - int(above[row])  # that are left for the tied ones
            hits[k][row] = chances[min(places, len(chances)) - 1] if places > 0 else 0.0
    return Ranks(rows, reciprocal, hits)


def first_of_tied(wrong: int, right: int) -> np.ndarray:
    """(wrong + 1,) chances that 0, 1, ... irrelevant rows come before the first of the relevant, in random order.

    >>> first_of_tied(wrong=2, right=1).round(3)
    array([0.333, 0.333, 0.333])
    """
    left = wrong + right - np.arange(wrong + 1)
    stays = np.concatenate([[1.0], np.cumprod((left - right)[:-1] / left[:-1])])
    return stays * right / left


def present(vectors: np.ndarray) -> np.ndarray:
    """(rows,) bool: which rows have a vector at all."""
    return np.asarray(np.any(vectors, axis=1))


def joined(parts: Sequence[Counts]) -> Counts:
    """The counts of all queries, in order."""
    empty = np.zeros(0, np.int64)
    fields = ("above", "tied", "relevant")
    return Counts(*(np.concatenate([empty, *(getattr(part, name) for part in parts)]) for name in fields))


def check_shapes(queries: np.ndarray, pool: np.ndarray, relevant: np.ndarray, excluded: np.ndarray) -> None:
    wanted = (len(queries), len(pool))
    if queries.shape[1:] != pool.shape[1:] or relevant.shape != wanted or excluded.shape != wanted:
        raise UsageError(
            f"{queries.shape} queries and {pool.shape} pool rows need relevant and excluded of {wanted}, "
            f"found {relevant.shape} and {excluded.shape}: pass one row a query and one column a pool row"
        )
