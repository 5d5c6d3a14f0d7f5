"""Charts of the run report, as SVG bytes."""

import io
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

COLOURS = ("#2f5fd0", "#d0682f", "#1c8f74", "#8a4fc4", "#b8922a", "#c23b6b")
SHARDS_DRAWN = 200  # of more than these every second, every third, ... is drawn
DASHES = {"fused": "-", "image": "--", "text": ":"}
# A fixed salt and no date: the same run gives the same bytes.
SVG_STYLE: Any = {"svg.hashsalt": "samestyle", "font.size": 12, "axes.spines.top": False, "axes.spines.right": False}


def recall_curves(indexes: list[dict[str, Any]], limit: float | None) -> bytes:
    """`recall_figure` as SVG."""
    with rc_context(SVG_STYLE):
        return svg(recall_figure(indexes, limit))


def recall_figure(indexes: list[dict[str, Any]], limit: float | None) -> Figure:
    """Recall against ef_search, a line an index, the chosen ef marked with its interval.

    limit: the gate's, drawn where it is near. indexes: entries of evaluate_index.json, each with module, view,
    ef_search, recall, recall_curve.
    """
    with rc_context(SVG_STYLE):
        figure = Figure(figsize=(6.4, 4.0), layout="constrained")
        axes = figure.subplots()
        modules = list(dict.fromkeys(index["module"] for index in indexes))
        for index in indexes:
            draw_curve(axes, index, COLOURS[modules.index(index["module"]) % len(COLOURS)])
        lowest = min(point["recall"] for index in indexes for point in index["recall_curve"])
        lowest = min(lowest, *[index["recall"]["low"] for index in indexes])
        if limit is not None and lowest < limit + 0.05:
            axes.axhline(limit, color="#b3261e", linewidth=1, linestyle=(0, (4, 3)), label="gate's limit")
        axes.set(xscale="log", xlabel="ef_search (more is slower)", ylabel=f"recall@{indexes[0]['recall']['k']}")
        efs = sorted({point["ef"] for index in indexes for point in index["recall_curve"]})
        axes.set_xticks(efs, [str(ef) for ef in efs])
        axes.minorticks_off()
        axes.set_ylim(min(lowest - 0.002, 0.98), 1.001)  # differences of a thousandth are not to look like cliffs
        axes.grid(color="#e4e7ec", linewidth=0.8)
        axes.tick_params(color="#98a2b3")
        figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=11)
        return figure


def draw_curve(axes: Any, index: dict[str, Any], colour: str) -> None:
    efs, recalls = zip(*[(point["ef"], point["recall"]) for point in index["recall_curve"]], strict=True)
    name = f"{index['module']}/{index['view']}"
    axes.plot(efs, recalls, DASHES.get(index["view"], "-"), color=colour, linewidth=1.8, label=name)
    chosen = dict(zip(efs, recalls, strict=True)).get(index["ef_search"])
    if chosen is not None:
        axes.plot(index["ef_search"], chosen, "o", color=colour, markersize=6)
        axes.vlines(index["ef_search"], index["recall"]["low"], index["recall"]["high"], color=colour, linewidth=1.2)


def shard_sizes(indexes: list[dict[str, Any]]) -> bytes:
    """Every shard's living and dead nodes, a panel an index, the largest shard first; shard_rows as a line.

    indexes: entries of build_index.json, each with module, view, shard_rows, shards.
    """
    with rc_context(SVG_STYLE):
        columns = min(2, len(indexes))
        rows = -(-len(indexes) // columns)
        figure = Figure(figsize=(3.6 * columns, 0.5 + 1.7 * rows), layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False).ravel()
        for axes, index in zip(grid, indexes, strict=False):
            draw_shards(axes, index)
        for axes in grid[len(indexes) :]:
            axes.set_axis_off()
        figure.legend(*grid[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
        return svg(figure)


def draw_shards(axes: Any, index: dict[str, Any]) -> None:
    shards = sorted(index["shards"], key=lambda shard: (-shard["nodes"], shard["dead_share"]))
    drawn = shards[:: -(-len(shards) // SHARDS_DRAWN)]
    nodes = np.array([shard["nodes"] for shard in drawn])
    living = nodes * (1 - np.array([shard["dead_share"] for shard in drawn]))
    edges = np.arange(len(drawn) + 1) + 0.5
    axes.stairs(living, edges, fill=True, color="#7fa0e8", label="living nodes")
    axes.stairs(nodes, edges, baseline=living, fill=True, color="#d0682f", label="dead nodes")
    if len(drawn) < SHARDS_DRAWN / 2:  # else there would be nothing but gaps
        axes.vlines(edges[1:-1], 0, nodes[1:], color="#ffffff", linewidth=1.2)
    if index.get("shard_rows"):
        axes.axhline(index["shard_rows"], color="#5b6779", linewidth=1, linestyle=(0, (4, 3)), label="shard_rows")
    dead = sum(shard["nodes"] * shard["dead_share"] for shard in shards) / sum(shard["nodes"] for shard in shards)
    counted = f"{len(shards):,} {'shard' if len(shards) == 1 else 'shards'}"
    axes.set_title(f"{index['module']}/{index['view']} · {counted} · {dead:.1%} dead", fontsize=11)
    axes.set(xlim=(edges[0] - 0.2, edges[-1] + 0.2), ylim=(0, None), xticks=[])
    axes.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.tick_params(color="#98a2b3", labelsize=10)


def threshold_curve(points: list[dict[str, Any]], chosen: float, wanted: float | None) -> bytes:
    """Precision and recall of a band against its threshold; the chosen one, and the precision wanted, as lines.

    points: each with threshold, pairs, precision, recall.
    """
    with rc_context(SVG_STYLE):
        figure = Figure(figsize=(6.4, 3.6), layout="constrained")
        axes = figure.subplots()
        scores = [point["threshold"] for point in points]
        for name, colour in zip(("precision", "recall"), COLOURS, strict=False):
            axes.plot(scores, [point[name] for point in points], color=colour, linewidth=1.8, label=name)
        axes.axvline(chosen, color="#475467", linewidth=1, linestyle=(0, (4, 3)), label=f"threshold {chosen:.2f}")
        if wanted is not None:
            axes.axhline(wanted, color="#b3261e", linewidth=1, linestyle=(0, (4, 3)), label="precision wanted")
        axes.set(xlabel="lowest score of same_style", ylim=(0, 1.02))
        axes.grid(color="#e4e7ec", linewidth=0.8)
        axes.tick_params(color="#98a2b3")
        figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=11)
        return svg(figure)


def svg(figure: Figure) -> bytes:
    target = io.BytesIO()
    figure.savefig(target, format="svg", metadata={"Date": None})
    return target.getvalue()
