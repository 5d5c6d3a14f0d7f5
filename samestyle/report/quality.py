"""The report of `evaluate_encoder`: figures of every direction, photos of what one encoder finds and the other not."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from samestyle.report.report import Product, environment

# As published for eSSPR, on test sets that are not public: (MRR, R@1, R@5, R@10, R@20).
PUBLISHED = {
    "i-i": (0.9027, 0.8784, 0.9355, 0.9511, 0.9675),
    "i-m": (0.8409, 0.7897, 0.9065, 0.9398, 0.9596),
    "t-t": (0.6428, 0.5597, 0.7485, 0.8174, 0.8761),
    "t-m": (0.5753, 0.4823, 0.6923, 0.7771, 0.8455),
    "m-m": (0.9197, 0.8870, 0.9619, 0.9761, 0.9879),
}


@dataclass(frozen=True)
class Found:
    """One product that a query found; `right`: whether it is one that was wanted."""

    product: Product
    score: float
    right: bool


@dataclass(frozen=True)
class Contest:
    """A query that one encoder answers better; ranks as reciprocals, lists best first."""

    query: Product
    set: str
    ours: float
    theirs: float
    our_list: tuple[Found, ...]
    their_list: tuple[Found, ...]


@dataclass(frozen=True)
class QualityReport:
    """record: evaluation.json; other: that of the encoder compared with; compared: lines of comparison.Compared."""

    run_id: str
    record: dict[str, Any]
    other: dict[str, Any] | None = None
    compared: Sequence[Any] = ()
    wins: tuple[Contest, ...] = ()
    losses: tuple[Contest, ...] = ()
    settings: str = ""
    problems: tuple[str, ...] = ()


def render_quality(report: QualityReport) -> str:
    """The whole page, one HTML file that needs nothing else."""
    template = (resources.files("samestyle.report") / "quality.html.j2").read_text(encoding="utf-8")
    return environment().from_string(template).render(report=report, record=report.record, published=PUBLISHED)
