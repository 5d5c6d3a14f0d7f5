"""What was measured of a release's indexes and of its encoder, as tables."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from samestyle.release.manifest import EncoderEntry, Index, Manifest

METRICS = ("recall@1", "recall@5", "recall@10", "recall@20", "mrr")


@dataclass(frozen=True)
class Curves:
    """recall at each of `efs`, None where that was not measured, by index."""

    efs: list[int]
    rows: list[tuple[Index, list[float | None]]]


@dataclass(frozen=True)
class Evaluation:
    """One of the encoder's: what it was measured on and how; a row a direction (m both, i photo, t title)."""

    name: str
    protocol: str
    metrics: list[str]
    rows: list[tuple[str, list[float | None]]]


def curves(manifest: Manifest) -> Curves:
    measured = [(index, {point.ef: point.recall for point in index.recall_curve}) for index in manifest.indexes]
    efs = sorted({ef for _, curve in measured for ef in curve})
    return Curves(efs, [(index, [curve.get(ef) for ef in efs]) for index, curve in measured if curve])


def evaluations_of(encoder: EncoderEntry) -> list[Evaluation]:
    """Those that the encoder's own description tells. It may be anybody's: what does not look like one is left out."""
    told = encoder.description.get("quality")
    found = (evaluation(entry) for entry in told if isinstance(entry, Mapping)) if isinstance(told, list) else ()
    return [one for one in found if one.rows]


def evaluation(entry: Mapping[str, Any]) -> Evaluation:
    by_direction = {name: value for name, value in mapping(entry.get("metrics")).items() if isinstance(value, Mapping)}
    there = {metric for values in by_direction.values() for metric in values}
    metrics = [name for name in METRICS if name in there]
    rows = [(direction, [number(values.get(name)) for name in metrics]) for direction, values in by_direction.items()]
    name, protocol = (str(entry.get(field) or "") for field in ("name", "protocol"))
    return Evaluation(name, protocol, metrics, [row for row in rows if any(value is not None for value in row[1])])


def mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def number(value: Any) -> float | None:
    """Of a value with its interval, or alone."""
    first = value[0] if isinstance(value, list) and value else value
    is_number = isinstance(first, float | int) and not isinstance(first, bool)
    return float(first) if is_number and math.isfinite(first) else None
