"""The notebooks' charts say what they are given: looked at through what matplotlib has drawn."""

import numpy as np
import pytest

from samestyle.evaluation.bootstrap import Interval
from samestyle.evaluation.comparison import Compared
from samestyle.evaluation.recall import Proportion
from samestyle.evaluation.tradeoff import Effort
from samestyle.release.manifest import GateResult
from samestyle.report import figures, sheets


def texts(axes) -> list[str]:
    return [text.get_text() for text in (*axes.texts, *axes.get_yticklabels())]


def test_bars_carry_their_names_and_numbers():
    (axes,) = figures.bars({"mugs": 1200, "lamps": 3}, "offers").axes
    assert {"mugs", "lamps", "1,200", "3"} <= set(texts(axes))
    assert [bar.get_width() for bar in axes.patches] == [1200, 3]
    assert axes.yaxis_inverted()


def test_the_funnel_shows_rules_that_were_asked_about_pairs():
    def step(rule, rows, unit="pairs", skipped=""):
        return {"rule": rule, "rows_out": rows, "unit": unit, "skipped": skipped}

    steps = [step("of the window", 90, "clicks"), step("alike", 40), step("titles", 40, skipped="no titles")]
    (axes,) = figures.funnel({"funnel": steps}).axes
    assert [bar.get_width() for bar in axes.patches] == [40]
    assert "alike" in texts(axes)


def test_the_chosen_effort_is_marked():
    points = [Effort(ef, Proportion(0.9 + ef / 1000, 0.8, 1.0, 50), ef / 10) for ef in (10, 40)]
    (axes,) = figures.trade_off({"search/fused": points}, 40, "search/fused").axes
    line, mark = axes.lines
    assert line.get_xydata().tolist() == [[1.0, pytest.approx(0.91)], [4.0, pytest.approx(0.94)]]
    assert mark.get_xydata().tolist() == [[4.0, pytest.approx(0.94)]]


def test_the_spread_counts_distinct_shards():
    (axes,) = figures.spread(np.array([[0, 0, 0], [0, 1, 0], [2, 1, 0], [1, 1, 2]]), "shards").axes
    assert [bar.get_height() for bar in axes.patches] == [1, 2, 1]


def test_meters_show_what_is_held_against_the_parent():
    results = [
        GateResult("centroid image", True, 0.05, 0.25, ""),
        GateResult("neighbours search", False, 0.25, 0.5, ""),
        GateResult("recall search/fused", True, 0.99, 0.9, ""),
    ]
    (axes,) = figures.meters(results).axes
    assert [bar.get_width() for bar in axes.patches] == [1.0, pytest.approx(0.2)]


def test_only_what_moved_gets_an_arrow():
    figure, (axes,) = sheets.map_figure()
    figures.moves(axes, np.array([[0.0, 0.0], [1.0, 1.0]]), np.array([[0.0, 0.0], [2.0, 1.0]]))
    (arrow,) = axes.texts
    assert (arrow.xyann, arrow.xy) == ((1.0, 1.0), (2.0, 1.0))
    figure.canvas.draw()


def test_a_difference_that_may_be_chance_is_grey():
    sure, unsure = Interval(0.1, 0.05, 0.15), Interval(0.1, -0.1, 0.3)
    compared = [Compared("s", d, "recall@1", 0.5, 0.6, one, 99) for d, one in (("m-m", sure), ("i-i", unsure))]
    (axes,) = figures.differences(compared).axes
    assert [line.get_color() for line in axes.lines[:4]] == [figures.GOOD] * 2 + [figures.SOFT] * 2
    assert "m-m   0.50 → 0.60" in texts(axes)
