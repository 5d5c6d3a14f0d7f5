"""A night beside its parent and the nights before: which figures moved, how far it drifted, how fast it embedded."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from samestyle.progress import clock

Records = Mapping[str, Any]
NIGHTS = 30  # that a trend goes back
# Rules of the gate that hold a night against its parent, by their first word, and what they measure.
DRIFT = {
    "centroid": "mean {} vector has moved by",
    "length": "mean length of {} vectors has moved by",
    "neighbours": "share of the parent's neighbours found again, {}",
    "quality": "recall@1 {} that the encoder has lost",
    "shrink": "share that went, {}",
    "growth": "share that came, {}",
}
AT_LEAST = ("neighbours",)


@dataclass(frozen=True)
class Figure:
    """One figure that moved, as text. trend: its values in the nights before and tonight, oldest first."""

    name: str
    before: str
    now: str
    difference: str
    trend: tuple[float, ...]


@dataclass(frozen=True)
class Moved:
    """What differs from the parent release: figures, and what was switched (name, before, now).

    same: names of the figures that do not.
    """

    release_id: str
    created_at: str
    figures: tuple[Figure, ...]
    same: tuple[str, ...]
    switched: tuple[tuple[str, str, str], ...]


@dataclass(frozen=True)
class Drift:
    """One measure against the parent. used: the part of the limit that it takes, 0 to 1."""

    what: str
    value: float
    limit: float
    passed: bool
    used: float
    sentence: str
    trend: tuple[float, ...]


@dataclass(frozen=True)
class Throughput:
    """The embedding engine. queues: (stage, busy seconds of all workers, share of the busiest)."""

    rows: int
    seconds: float
    queues: tuple[tuple[str, float, float], ...]
    limited_by: str | None

    @property
    def rate(self) -> float:
        """Contents a second."""
        return self.rows / self.seconds if self.seconds else 0.0


def figures(summary: Records) -> dict[str, float]:
    """The figures of a summary by their names, in the order in which they are shown."""
    counts, found = summary.get("counts", {}), {}
    if "read" in counts:
        found["catalogue rows"] = counts["read"]
    found |= {f"rows {state}": counts[state] for state in ("stale", "degraded", "rejected") if state in counts}
    found |= {f"items of {module}": count for module, count in summary.get("items", {}).items()}
    recalls = summary.get("recall") or {}
    found |= {f"recall@{entry['k']} {index}": entry["value"] for index, entry in recalls.items()}
    found |= {f"same-style R@1 {view}": value for view, value in (summary.get("same_style_r1") or {}).items()}
    if seconds := sum((summary.get("timings_s") or {}).values()):
        found["time of all stages"] = seconds
    return found


def moved(records: Records) -> Moved | None:
    """Tonight's summary beside records["before"], what is known of the parent; None where there is no parent."""
    before = records.get("before")
    if not before:
        return None
    old, new = figures(before), figures(records.get("summary", {}))
    nights = [figures(night["summary"]) for night in records.get("nights", [])]
    common = [name for name in new if name in old]
    return Moved(
        before["release_id"],
        before["created_at"],
        tuple(figure(name, old[name], new[name], nights) for name in common if shows(name, old[name], new[name])),
        tuple(name for name in common if not shows(name, old[name], new[name])),
        tuple((name, told(a), told(b)) for name, a, b in before.get("switched", [])),
    )


def shows(name: str, before: float, now: float) -> bool:
    return told(before, name) != told(now, name)


def figure(name: str, before: float, now: float, nights: Sequence[dict[str, float]]) -> Figure:
    sign = "+" if now > before else "−"
    trend = (*(night[name] for night in nights if name in night), now)
    return Figure(name, told(before, name), told(now, name), sign + told(abs(now - before), name), trend)


def told(value: Any, name: str = "") -> str:
    """A figure as text: a time, a share of four places, or a number."""
    if value is None:
        return "not set"
    if name.startswith("time"):
        return clock(value)
    if name.startswith(("recall", "same-style")):
        return f"{value:.4f}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def drift(records: Records) -> list[Drift]:
    """The gate's measures against the parent, the one nearest to its limit first."""
    nights = [night.get("gate", {}) for night in records.get("nights", [])]
    found = list(drifts(records.get("gate", {}).get("results", []), nights))
    return sorted(found, key=lambda one: (one.passed, -one.used))


def drifts(results: Sequence[Records], nights: Sequence[dict[str, float]]) -> Iterator[Drift]:
    for result in results:
        kind, _, of = result["rule"].partition(" ")
        against = of.removesuffix(" against parent")
        if kind in DRIFT or against != of:
            what = DRIFT[kind].format(of) if kind in DRIFT else f"same-style R@1 {against} that was lost"
            value, limit = result["value"], result["limit"]
            trend = (*(night[result["rule"]] for night in nights if result["rule"] in night), value)
            yield Drift(what, value, limit, result["passed"], used(kind, value, limit), result["sentence"], trend)


def used(kind: str, value: float, limit: float) -> float:
    """How much of what the limit allows is taken: 0 nothing, 1 all of it."""
    room, taken = (1 - limit, 1 - value) if kind in AT_LEAST else (limit, value)
    return min(1.0, max(0.0, taken / room)) if room > 0 else float(taken > 0)


def throughput(records: Records) -> Throughput | None:
    """What the embedding engine did; None where nothing was to embed."""
    record = records.get("throughput")
    if not record or not record["rows"]:
        return None
    busiest = max(record["busy_s"].values(), default=0) or 1
    queues = tuple((stage, seconds, seconds / busiest) for stage, seconds in record["busy_s"].items())
    return Throughput(record["rows"], record["seconds"], queues, record["limited_by"])


def spark(values: Sequence[float], width: int = 100, height: int = 22) -> str:
    """Points of a line through the values, for an SVG polyline of this size; empty for fewer than three."""
    if len(values) < 3:
        return ""
    low, span = min(values), (max(values) - min(values)) or 1
    step, room = width / (len(values) - 1), height - 4
    return " ".join(f"{n * step:.1f},{height - 2 - room * (value - low) / span:.1f}" for n, value in enumerate(values))
