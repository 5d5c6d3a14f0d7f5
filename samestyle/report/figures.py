"""Charts for notebooks, as matplotlib figures; samestyle.report.sheets draws those with photos."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from samestyle.evaluation.comparison import Compared
from samestyle.evaluation.tradeoff import Effort
from samestyle.release.manifest import GateResult, Index
from samestyle.report.charts import COLOURS
from samestyle.report.trend import drift

INK, SOFT, GRID = "#17202e", "#5b6779", "#e4e7ec"
GOOD, BAD = "#1c8f74", "#c2413a"


def panel(width: float = 7.0, height: float = 3.4) -> tuple[Figure, Axes]:
    """A figure with one chart."""
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(color="#98a2b3", labelsize=9)
    axes.set_axisbelow(True)
    return figure, axes


def bars(counts: Mapping[str, float], label: str, log: bool = False) -> Figure:
    """A bar for each name, the first on top, with its number behind it."""
    figure, axes = panel(height=0.6 + 0.3 * len(counts))
    names, values = list(counts), list(counts.values())
    drawn = axes.barh(range(len(names)), values, color=COLOURS[0], height=0.72)
    axes.bar_label(drawn, [f"{value:,}" for value in values], padding=4, fontsize=9, color=SOFT)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set(xlabel=label, xscale="log" if log else "linear")
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.margins(x=0.12)
    return figure


def funnel(record: Mapping[str, Any]) -> Figure:
    """What each rule of `sample_pairs` left of the pairs. record: funnel.json."""
    steps = [step for step in record["funnel"] if not step["skipped"] and step["unit"] == "pairs"]
    return bars({step["rule"]: step["rows_out"] for step in steps}, "pairs left, on a scale of powers of ten", log=True)


def trade_off(measured: Mapping[str, Sequence[Effort]], chosen: int | None = None, at: str = "") -> Figure:
    """Recall against the time of a query, a line an index, a dot an ef_search; `chosen`: that of the index `at`."""
    figure, axes = panel()
    for colour, (name, points) in zip(COLOURS, measured.items(), strict=False):
        axes.plot([p.ms for p in points], [p.recall.value for p in points], "o-", color=colour, label=name, ms=4)
        for point in points:
            axes.annotate(f"{point.ef}", (point.ms, point.recall.value), (0, 6), textcoords="offset points", fontsize=7)
            if name == at and point.ef == chosen:
                axes.plot(point.ms, point.recall.value, "o", ms=12, mfc="none", mec=INK, label="the night's choice")
    axes.set(xlabel="milliseconds a query, one core", ylabel="recall@10", xscale="log")
    axes.grid(color=GRID, linewidth=0.8)
    axes.legend(frameon=False, fontsize=9, loc="lower right")
    return figure


def shards(indexes: Sequence[Index]) -> Figure:
    """Nodes of every shard, index by index, the dead ones pale; shards that are full, and stay, with a dark edge."""
    figure, axes = panel(height=0.8 + 0.42 * len(indexes))
    for line, index in enumerate(indexes):
        left = 0
        for shard in index.shards:
            living = shard.living
            edge: dict[str, Any] = {"edgecolor": INK if shard.frozen else "white", "linewidth": 1.2, "height": 0.62}
            axes.barh(line, living, left=left, color=COLOURS[0], **edge)
            axes.barh(line, shard.nodes - living, left=left + living, color="#b5c7f2", **edge)
            left += shard.nodes
    axes.set_yticks(range(len(indexes)), [f"{index.module}/{index.view}" for index in indexes])
    axes.invert_yaxis()
    axes.set_xlabel("nodes, shard beside shard")
    return figure


def spread(places: np.ndarray, label: str) -> Figure:
    """How many queries find their true neighbours in 1, 2, ... shards. places: (queries, k) shard numbers."""
    counts = np.bincount([len(np.unique(row)) for row in places])[1:]
    figure, axes = panel(4.4, 2.6)
    drawn = axes.bar(range(1, len(counts) + 1), counts, color=COLOURS[0], width=0.7)
    axes.bar_label(drawn, fontsize=9, color=SOFT)
    axes.set_xticks(range(1, len(counts) + 1))
    axes.set(xlabel=label, ylabel="queries")
    return figure


def meters(results: Sequence[GateResult]) -> Figure:
    """How much of the gate's limits the measures against the parent use up; empty where there was no parent."""
    measures = drift({"gate": {"results": [vars(result) for result in results]}})
    figure, axes = panel(height=0.7 + 0.28 * len(measures))
    colours = [GOOD if one.passed else BAD for one in measures]
    drawn = axes.barh(range(len(measures)), [one.used for one in measures], color=colours, height=0.7)
    axes.bar_label(drawn, [f"{one.value:.4g} of {one.limit:g}" for one in measures], padding=4, fontsize=8, color=SOFT)
    axes.set_yticks(range(len(measures)), [one.what for one in measures], fontsize=8)
    axes.invert_yaxis()
    axes.axvline(1, color=BAD, linewidth=1, linestyle=(0, (4, 3)))
    axes.set(xlim=(0, 1.18), xlabel="part of the gate's limit that is used up")
    return figure


def moves(axes: Axes, before: np.ndarray, after: np.ndarray) -> None:
    """A dot for each item that stayed, an arrow for each that moved. before, after: (n, 2) places of the same items."""
    moved = np.linalg.norm(after - before, axis=1) > 1e-6
    stayed, here = before[~moved], after[moved]
    axes.scatter(stayed[:, 0], stayed[:, 1], s=8, color="#c9d1de", label="as it was", linewidths=0)
    for start, end in zip(before[moved], after[moved], strict=True):
        axes.annotate("", end, start, arrowprops={"arrowstyle": "->", "color": COLOURS[1], "lw": 1.4})
    axes.scatter(here[:, 0], here[:, 1], s=14, color=COLOURS[1], label="another title or photo", linewidths=0)
    axes.set(xticks=[], yticks=[])
    axes.legend(frameon=False, fontsize=9, loc="lower right")


def differences(compared: Sequence[Compared], first: str = "A", second: str = "B") -> Figure:
    """A line a direction: the difference of the encoders with its interval, right of the middle where B is better."""
    figure, axes = panel(height=0.9 + 0.34 * len(compared))
    for line, one in enumerate(compared):
        sure = one.difference.significant
        colour = SOFT if not sure else GOOD if one.difference.mean > 0 else BAD
        axes.plot([one.difference.low, one.difference.high], [line, line], color=colour, linewidth=2.4)
        axes.plot(one.difference.mean, line, "o", color=colour, ms=7)
    names = [f"{one.direction}   {one.first:.2f} → {one.second:.2f}" for one in compared]
    axes.set_yticks(range(len(compared)), names)
    axes.invert_yaxis()
    axes.axvline(0, color=INK, linewidth=1)
    metric = compared[0].metric if compared else ""
    axes.set_xlabel(
        f"{metric}: {second} minus {first},\nwith its 95 % interval; grey where it may be chance", fontsize=9
    )
    axes.grid(axis="x", color=GRID, linewidth=0.8)
    return figure
