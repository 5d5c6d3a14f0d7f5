"""Thresholds from labelled pairs, on pairs that can be counted by hand."""

import numpy as np
import pytest

from samestyle.evaluation.thresholds import (
    FIT,
    SHOW,
    JudgedPairs,
    Point,
    curve,
    fit_threshold,
    point,
    precision_interval,
)


def judged(*pairs: tuple[float, bool], half: int = FIT) -> JudgedPairs:
    scores, right = np.array([score for score, _ in pairs]), np.array([right for _, right in pairs])
    return JudgedPairs(scores, right, np.arange(len(pairs)), np.full(len(pairs), half))


TEN = judged(
    *[(score, True) for score in (0.95, 0.91, 0.90, 0.85, 0.72)],
    *[(score, False) for score in (0.84, 0.75, 0.74, 0.71, 0.70)],
)


def test_precision_and_recall_at_a_threshold():
    assert point(TEN, 0.90) == Point(0.90, 3, 1.0, 3 / 5)
    assert point(TEN, 0.84) == Point(0.84, 5, 4 / 5, 4 / 5)  # a pair at the threshold is let through
    assert point(TEN, 0.70) == Point(0.70, 10, 5 / 10, 1.0)


def test_nothing_let_through_has_no_precision():
    assert np.isnan(point(TEN, 0.96).precision)


def test_the_curve_reaches_from_the_lowest_to_the_highest_score():
    points = curve(TEN, 0.70)
    assert [p.threshold for p in points] == [round(0.70 + 0.01 * n, 2) for n in range(26)]
    assert points[0] == point(TEN, 0.70)


@pytest.mark.parametrize(
    ("precision", "threshold"),
    [(1.0, 0.85), (0.8, 0.76), (0.9, 0.85), (0.6, 0.75), (0.5, 0.70)],
)
def test_the_lowest_threshold_that_keeps_the_precision(precision, threshold):
    """Right at .85 are 4 of 4, at .76 four of five, at .75 four of six, at .74 four of seven, at .72 five of 8."""
    assert fit_threshold(curve(TEN, 0.70), precision, least=1) == threshold


def test_a_lucky_stretch_below_a_bad_one_does_not_count():
    lucky = judged((0.9, True), (0.8, False), (0.7, True), (0.7, True), (0.7, True))
    assert point(lucky, 0.7).precision == 0.8
    assert fit_threshold(curve(lucky, 0.6), 0.8, least=1) == 0.81


def test_few_pairs_say_nothing():
    assert fit_threshold(curve(TEN, 0.70), 0.8, least=5) == 0.76
    assert fit_threshold(curve(TEN, 0.70), 0.8, least=6) is None
    assert fit_threshold([], 0.8) is None


def test_a_precision_out_of_reach_gives_no_threshold():
    assert fit_threshold(curve(judged((0.9, False), (0.8, True)), 0.7), 0.9, least=1) is None


def test_the_halves_are_kept_apart():
    both = JudgedPairs(np.array([0.9, 0.8]), np.array([True, False]), np.arange(2), np.array([FIT, SHOW]))
    assert len(both.of(FIT)) == len(both.of(SHOW)) == 1
    assert both.of(FIT).right.all()
    assert not both.of(SHOW).right.any()


def test_the_interval_counts_askers_and_not_pairs():
    """Four askers of 25 equal pairs each are four trials: as pairs, the interval of 3/4 would be .66 to .83."""
    right, asked = np.repeat([True, True, True, False], 25), np.repeat(range(4), 25)
    four = JudgedPairs(np.full(100, 0.9), right, asked, np.zeros(100))
    interval = precision_interval(four, 0.8)
    assert (interval.mean, interval.low, interval.high) == (0.75, 0.25, 1.0)
    assert np.isnan(precision_interval(four, 0.95).mean)
