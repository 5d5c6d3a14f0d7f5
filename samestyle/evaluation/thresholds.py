"""From labelled pairs to the lowest score of a band: fitted to a precision on one half, shown on the other."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from samestyle.evaluation.bootstrap import RESAMPLES, Interval

# Thresholds that are tried. Finer ones would differ from night to night, and say no more.
STEP = 0.01
# Fewest pairs at or above a threshold from which its precision can be told.
LEAST = 50
FIT, SHOW = 0, 1


@dataclass(frozen=True)
class JudgedPairs:
    """scores: cosines, (pairs,) float; right: (pairs,) bool; asked: whose neighbour it is, (pairs,) int; half: FIT or
    SHOW, (pairs,) int. All pairs of one asker are in one half."""

    scores: np.ndarray
    right: np.ndarray
    asked: np.ndarray
    half: np.ndarray

    def of(self, half: int) -> "JudgedPairs":
        own = self.half == half
        return JudgedPairs(self.scores[own], self.right[own], self.asked[own], self.half[own])

    def __len__(self) -> int:
        return len(self.scores)


@dataclass(frozen=True)
class Point:
    """What a threshold would let through: `pairs`, the share of them that is right, and the share of all right pairs
    that is among them. The precision of no pair is nan."""

    threshold: float
    pairs: int
    precision: float
    recall: float


def point(pairs: JudgedPairs, threshold: float) -> Point:
    """
    >>> judged = JudgedPairs(np.array([.9, .8, .7]), np.array([True, False, True]), np.arange(3), np.zeros(3))
    >>> point(judged, .8)
    Point(threshold=0.8, pairs=2, precision=0.5, recall=0.5)
    """
    through = pairs.scores >= threshold
    right, found = int((through & pairs.right).sum()), int(through.sum())
    return Point(threshold, found, right / found if found else np.nan, right / max(1, int(pairs.right.sum())))


def curve(pairs: JudgedPairs, lowest: float) -> list[Point]:
    """The points from `lowest` to the highest score, in steps of STEP."""
    first, last = round(lowest / STEP), int(pairs.scores.max(initial=lowest) / STEP + 1e-9)
    return [point(pairs, round(step * STEP, 4)) for step in range(first, last + 1)]


def fit_threshold(points: Sequence[Point], precision: float, least: int = LEAST) -> float | None:
    """The threshold below which the precision falls short for the first time, coming from above; None where it does so
    at once. Points of fewer than `least` pairs say nothing."""
    chosen = None
    for one in sorted(points, key=lambda one: -one.threshold):
        if one.pairs < least:
            continue
        if one.precision < precision:
            break
        chosen = one.threshold
    return chosen


def precision_interval(pairs: JudgedPairs, threshold: float, seed: int = 0, resamples: int = RESAMPLES) -> Interval:
    """The precision with its 95 % interval; askers are drawn anew, not pairs, as those of one asker hang together."""
    through = pairs.scores >= threshold
    if not through.any():
        return Interval(np.nan, np.nan, np.nan)
    _, asked = np.unique(pairs.asked[through], return_inverse=True)
    counts, right = np.bincount(asked), np.bincount(asked, weights=pairs.right[through])
    drawn = np.random.default_rng(seed).integers(len(counts), size=(resamples, len(counts)))
    shares = right[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    low, high = np.percentile(shares, [2.5, 97.5])
    return Interval(float(right.sum() / counts.sum()), float(low), float(high))
