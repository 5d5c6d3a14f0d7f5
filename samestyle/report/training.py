"""The report of `train`: what was learned from, the curves, both encoders side by side, the model card."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from samestyle.report.charts import COLOURS, SVG_STYLE, svg
from samestyle.report.report import environment

DASHES = ("-", "--", ":")
# (caption, points, names of what is drawn, what the axis says)
Plot = tuple[str, Sequence[dict[str, float]], Sequence[str], str]
SMOOTHED = 50  # points of a curve that a mean is taken over, at most


@dataclass(frozen=True)
class TrainingReport:
    """training, data: training.json and data.json; card: Markdown; settings: YAML."""

    run_id: str
    training: dict[str, Any]
    data: dict[str, Any]
    card: str
    settings: str

    @property
    def charts(self) -> list[tuple[str, bytes]]:
        """(caption, SVG) of what there is."""
        return [(caption, curves(points, names, label)) for caption, points, names, label in self.plots]

    @property
    def figures(self) -> list[Figure]:
        """The same charts, for a notebook."""
        return [curve_figure(points, names, label) for _, points, names, label in self.plots]

    @property
    def plots(self) -> list[Plot]:
        """What there is to draw."""
        history = self.training["history"]
        terms = [name for name in (history["losses"] or [{}])[0] if name not in ("step", "total")]
        mrrs = [name for name in history["validation"][0] if name.endswith(" mrr")]
        plots: list[Plot] = [
            ("Terms of the loss, weighted", smoothed(history["losses"]), terms, "loss"),
            ("Validation: mean reciprocal rank", history["validation"], mrrs, "MRR"),
        ]
        return [plot for plot in plots if plot[1] and plot[2]]

    @property
    def directions(self) -> list[tuple[str, dict[str, dict[str, Any]]]]:
        """(direction, metric to its entry of `compared`)."""
        found: dict[str, dict[str, dict[str, Any]]] = {}
        for one in self.training["compared"]:
            found.setdefault(one["direction"], {})[one["metric"]] = one
        return list(found.items())


def render_training(report: TrainingReport) -> str:
    """The whole page, one HTML file that needs nothing else."""
    template = (resources.files("samestyle.report") / "training.html.j2").read_text(encoding="utf-8")
    return environment().from_string(template).render(report=report, training=report.training, data=report.data)


def smoothed(points: Sequence[dict[str, float]]) -> list[dict[str, float]]:
    """Means over consecutive points, so that the curves can be read."""
    size = max(1, min(SMOOTHED, len(points) // 20))
    parts = [points[start : start + size] for start in range(0, len(points), size)]
    return [{name: float(np.mean([point[name] for point in part])) for name in part[0]} for part in parts]


def curves(points: Sequence[dict[str, float]], names: Sequence[str], label: str) -> bytes:
    """`curve_figure` as SVG."""
    with rc_context(SVG_STYLE):
        return svg(curve_figure(points, names, label))


def curve_figure(points: Sequence[dict[str, float]], names: Sequence[str], label: str) -> Figure:
    """Some values against the step."""
    with rc_context(SVG_STYLE):
        figure = Figure(figsize=(6.4, 4.0), layout="constrained")
        axes = figure.subplots()
        for number, name in enumerate(names):
            dashes = DASHES[number // len(COLOURS) % len(DASHES)]
            seen = [point for point in points if name in point]
            steps, values = [point["step"] for point in seen], [point[name] for point in seen]
            axes.plot(steps, values, dashes, label=name.removesuffix(" mrr"), color=COLOURS[number % len(COLOURS)])
        axes.set(xlabel="step", ylabel=label)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(color="#e4e7ec", linewidth=0.8)
        axes.tick_params(color="#98a2b3")
        figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=11)
        return figure
