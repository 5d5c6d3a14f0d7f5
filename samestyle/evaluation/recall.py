"""recall@k of a sharded index against exact search, ties counted fairly, with intervals."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import NormalDist

import numpy as np

from samestyle.index.nodes import TIE

EXACT = 0  # stands where ef_search stands, for the exact answer


@dataclass(frozen=True)
class Proportion:
    """A share measured on `queries` queries, with its 95 % interval."""

    value: float
    low: float
    high: float
    queries: int


def perturb(vectors: np.ndarray, length: float, seed: int) -> np.ndarray:
    """Queries that are not in the index: each vector moved by a random step of this length; unit float32 again.

    vectors: (queries, dim). A query that is itself indexed would be found too easily.
    """
    steps = np.random.default_rng(seed).standard_normal(vectors.shape)
    steps *= length / np.linalg.norm(steps, axis=1, keepdims=True)
    moved = vectors + steps
    return (moved / np.linalg.norm(moved, axis=1, keepdims=True)).astype(np.float32)


def recalls(found: np.ndarray, exact: np.ndarray) -> np.ndarray:
    """recall@k a query, by distance and not by id: an answer as close as the true k-th is right, whatever its id.

    found, exact: (queries, k) cosines, best first; -inf where there are fewer than k.

    >>> recalls(np.array([[.9, .7]]), np.array([[.9, .8]]))
    array([0.5])
    """
    real = np.isfinite(exact)
    wanted = real.sum(axis=1)
    kth = np.where(real, exact, np.inf).min(axis=1)
    hits = (found >= kth[:, None] - TIE).sum(axis=1)
    return np.where(wanted > 0, np.minimum(hits, wanted) / np.maximum(wanted, 1), 1.0)


def proportion(values: Sequence[float] | np.ndarray, looks: int = 1) -> Proportion:
    """Mean of per-query shares with its interval, see `wilson`. Of no values nothing is known: 0 to 1.

    >>> p = proportion([1.0] * 500); round(p.low, 4), p.high
    (0.9924, 1.0)
    """
    return wilson(float(np.mean(values)), len(values), looks) if len(values) else Proportion(0.0, 0.0, 1.0, 0)


def wilson(p: float, n: int, looks: int = 1) -> Proportion:
    """The mean p of n queries with its 95 % interval (E. B. Wilson, 1927), a query counted as one trial.

    The hits of one query hang together, so that counting each as a trial would claim too narrow an interval.
    looks: how many such shares are looked at together. Their intervals are wider, so that with 95 % all of them hold
    (Bonferroni): of a thousand shards or slices none is to look bad by chance.

    >>> round(wilson(0.5, 20).high, 2), round(wilson(0.5, 20, looks=1000).high, 2)
    (0.7, 0.84)
    """
    z = NormalDist().inv_cdf(1 - 0.025 / looks)
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return Proportion(p, max(0.0, centre - half), 1.0 if p == 1 else min(1.0, centre + half), n)


def smallest_ef(curve: dict[int, Proportion], target: float) -> int:
    """The smallest ef_search whose recall's lower bound passes the target; the largest measured where none does."""
    passing = [ef for ef, recall in sorted(curve.items()) if recall.low >= target]
    return passing[0] if passing else max(curve)
