"""The report of `sample_pairs`: the funnel, histograms, and sheets of pairs that were kept and refused."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure

from samestyle.report.charts import COLOURS, SVG_STYLE, svg
from samestyle.report.report import Product, environment


@dataclass(frozen=True)
class ShownPair:
    """Two offers side by side; cosines are None where not known. `true`: whether both are of one true style."""

    trigger: Product
    offer: Product
    clicks: int | None = None
    title_cosine: float | None = None
    relevance: float | None = None
    true: bool | None = None


@dataclass(frozen=True)
class PairSheet:
    """A few pairs that ended alike: kept, or refused by one rule."""

    name: str
    rows: int
    pairs: tuple[ShownPair, ...]
    refused: bool


@dataclass(frozen=True)
class PairReport:
    """record: funnel.json; charts: (caption, SVG); settings: YAML of what decides the pairs."""

    run_id: str
    record: dict[str, Any]
    charts: tuple[tuple[str, bytes], ...] = ()
    sheets: tuple[PairSheet, ...] = ()
    settings: str = ""


def render_pairs(report: PairReport) -> str:
    """The whole page, one HTML file that needs nothing else."""
    template = (resources.files("samestyle.report") / "pairs.html.j2").read_text(encoding="utf-8")
    return environment().from_string(template).render(report=report, record=report.record)


def histogram(bars: Sequence[tuple[str, int]], label: str, count: str, ticks: int = 12) -> bytes:
    """An SVG of counts a bin, bins in the order given; at most `ticks` of them are named."""
    with rc_context(SVG_STYLE):
        figure = Figure(figsize=(5.6, 3.0), layout="constrained")
        axes = figure.subplots()
        axes.bar(range(len(bars)), [rows for _, rows in bars], width=0.86, color=COLOURS[0])
        step = -(-len(bars) // ticks)
        axes.set_xticks(range(0, len(bars), step), [name for name, _ in bars[::step]])
        axes.set(xlabel=label, ylabel=count)
        axes.grid(axis="y", color="#e4e7ec", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.tick_params(color="#98a2b3")
        return svg(figure)
