"""The report of a run: one HTML file that needs nothing else, from records and small samples to markup.

Everything that comes from a catalogue is untrusted: it is cut, cleaned and escaped here, and the page's own policy
forbids scripts and foreign resources.
"""

import base64
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from importlib import resources
from typing import Any, ClassVar

from jinja2 import Environment, StrictUndefined

from samestyle.catalogue.titles import normalise_title
from samestyle.progress import clock
from samestyle.report.slices import slices
from samestyle.report.trend import drift, moved, spark, throughput

STATES = ("fresh", "reused", "stale", "degraded", "rejected")
BANDS = {"same_style": "Same style, other suppliers", "similar": "Similar", "duplicate": "Duplicates, same supplier"}
RECORDS = (
    *("summary", "start", "embed", "throughput", "build_index", "evaluate_index", "neighbours", "gate", "publish"),
    "timings",
)
# Control characters but tab and line feed, and halves of surrogate pairs, which UTF-8 cannot hold.
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
Records = Mapping[str, dict[str, Any]]


@dataclass(frozen=True)
class Product:
    """A catalogue row as a tile. `photo`: JPEG bytes, or None with the reason in `missing`."""

    item_id: str | None
    title: str | None = None
    supplier: str | None = None
    category: str | None = None
    photo: bytes | None = None
    missing: str = "no photo"


@dataclass(frozen=True)
class Neighbour:
    """A product beside a trigger; score: cosine of the fused vectors."""

    band: str
    score: float
    product: Product


@dataclass(frozen=True)
class Sheet:
    """A trigger with its neighbours, best first within a band.

    new: ids of those that the parent release did not list; gone: those that it listed and tonight does not; both None
    where it listed nothing of this trigger.
    """

    trigger: Product
    neighbours: tuple[Neighbour, ...]
    new: frozenset[str] | None = None
    gone: tuple[Neighbour, ...] | None = None

    def bands(self) -> Iterator[tuple[str, list[Neighbour], list[Neighbour]]]:
        """(what the band is called, its neighbours, those that have gone from it), without empty bands."""
        for band, label in BANDS.items():
            found = [neighbour for neighbour in self.neighbours if neighbour.band == band]
            gone = [neighbour for neighbour in self.gone or () if neighbour.band == band]
            if found or gone:
                yield label, found, gone

    @property
    def changes(self) -> str:
        """What differs from the parent's list, in words; empty for nothing."""
        counts = {"new": sum(map(self.is_new, self.neighbours)), "gone": len(self.gone or ())}
        return ", ".join(f"{count} {name}" for name, count in counts.items() if count)

    def is_new(self, neighbour: Neighbour) -> bool:
        return neighbour.product.item_id in (self.new or ())


@dataclass(frozen=True)
class Affected:
    """Rows that ended stale, degraded or rejected for one reason: how many, with (product, detail) of a few."""

    state: str
    reason: str
    rows: int
    examples: tuple[tuple[Product, str | None], ...] = ()


@dataclass(frozen=True)
class Change:
    """Items that differ from the parent release in one way: how many, with (product, what differs) of a few."""

    KINDS: ClassVar[dict[str, str]] = {
        "came": "new or served again",
        "went": "not served any more",
        "content": "another title or photo",
        "facts": "another price, stock, category or supplier",
        "same": "as they were",
    }
    kind: str
    items: int
    examples: tuple[tuple[Product, str | None], ...] = ()

    @property
    def label(self) -> str:
        return self.KINDS[self.kind]


@dataclass(frozen=True)
class Report:
    """All that is shown. Only `run_id` is always there: a run may fail before it has anything else.

    records: what the stages wrote, by the names in RECORDS, and of other nights: `before`, the parent, a summary with
    release_id, created_at and `switched`; `nights`, those before, oldest first, with `summary` and `gate`.
    settings: YAML; recall_chart, shard_chart, threshold_chart: SVG; changes: of items, against the parent;
    sheet_module: whose neighbours the sheets show; problems: sentences about what this report could not find out.
    """

    run_id: str
    records: Records
    settings: str = ""
    code_version: str = ""
    recall_chart: bytes | None = None
    shard_chart: bytes | None = None
    threshold_chart: bytes | None = None
    changes: tuple[Change, ...] = ()
    affected: tuple[Affected, ...] = ()
    sheet_module: str = ""
    sheets: tuple[Sheet, ...] = ()
    problems: tuple[str, ...] = ()


@dataclass(frozen=True)
class Verdict:
    """The first thing on the page; `mood`: good, warn or bad."""

    mood: str
    headline: str
    sentences: tuple[str, ...]
    trace: str = ""


@dataclass(frozen=True)
class IndexRow:
    """One index: what was built and how well it finds. recall: value, low, high, queries; None before evaluation.

    compared: vectors that a query is compared with at this ef, in all shards; None where it was not counted.
    """

    name: str
    items: int
    nodes: int
    shards: int
    orphans: int
    megabytes: float
    ef: int | None
    compared: float | None
    recall: dict[str, Any] | None
    limit: float | None


def render(report: Report) -> str:
    """The whole page. A section whose record is not as expected is left out and named under the problems."""
    problems = list(report.problems)
    sections = {name: guarded(section, report.records, problems) for name, section in SECTIONS.items()}
    return environment().from_string(template()).render(report=report, problems=problems, **sections)


def guarded(section: Callable[[Records], Any], records: Records, problems: list[str]) -> Any:
    try:
        return section(records)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        name = section.__name__.replace("_", " ")
        problems.append(f"{name}: the run's records are not as expected ({type(error).__name__}: {error})")
        return None


def verdict(records: Records) -> Verdict:
    """How it ended and why, by summary.json."""
    summary = records.get("summary", {})
    outcome, release = summary.get("outcome"), summary.get("release_id")
    if outcome == "done" and release:
        return published(summary)
    if outcome == "done":
        return Verdict("good", "Done", ("This run has published nothing: its publish stage did not run.",))
    if outcome == "refused":
        return Verdict("bad", f"Refused by {refuser(records)}", (*reasons(summary), serving(records)))
    if outcome == "failed":
        code = f"Failed (exit code {summary.get('exit_code')})"
        return Verdict("bad", code, (*reasons(summary), serving(records)), summary.get("error") or "")
    return Verdict("warn", "Not finished", ("The run is still going on, or it died without a word.",))


def refuser(records: Records) -> str:
    """What refused the run, by how far it came: between measuring and judging only a budget can."""
    if records["summary"].get("gate_refused") or "neighbours" in records:
        return "the gate"
    return "the budget of searches" if "evaluate_index" in records else "the preflight"


def published(summary: dict[str, Any]) -> Verdict:
    told = f"Release {summary['release_id']} is what channel {summary['channel']} names now."
    if summary.get("forced"):
        refused = summary.get("gate_refused", [])
        return Verdict("warn", "Published by force", (told, f"Reason given: {summary['forced']}", *refused))
    return Verdict("good", "Published", (told,))


def reasons(summary: dict[str, Any]) -> tuple[str, ...]:
    """What the gate refused, or the first line of the error."""
    error = (summary.get("error") or "no reason was recorded").strip().splitlines()
    return tuple(summary.get("gate_refused") or error[:1])


def serving(records: Records) -> str:
    """What shoppers see after a night that did not publish."""
    if records.get("summary", {}).get("release_id"):
        return f"Release {records['summary']['release_id']} had been published before that, and serves."
    parent = records.get("start", {}).get("parent")
    return f"Release {parent} keeps serving." if parent else "No release was there before, so nothing serves."


def headline_numbers(records: Records) -> list[tuple[str, str]]:
    """(value, label) of the tiles below the verdict."""
    summary, tiles = records.get("summary", {}), []
    counts = summary.get("counts", {})
    tiles += [(f"{counts[name]:,}", label) for name, label in (("read", "catalogue rows"),) if name in counts]
    if "contents_embedded" in summary:
        tiles.append((f"{summary['contents_embedded']:,}", "contents embedded"))
    tiles += [(f"{counts['rejected']:,}", "rows rejected")] if counts else []
    recalls = summary.get("recall") or {}
    if recalls:
        worst = min(recalls.values(), key=lambda entry: entry["value"])
        tiles.append((f"{worst['value']:.3f}", f"lowest recall@{worst['k']}"))
    styles = summary.get("same_style_r1", {})
    tiles += [(f"{value:.3f}", f"same-style R@1, {view}") for view, value in sorted(styles.items())]
    return tiles


def ledger(records: Records) -> dict[str, Any] | None:
    """Where every catalogue row ended: parts (state, rows, share), and whether they add up."""
    embed = records.get("embed")
    if not embed:
        return None
    counts = embed["counts"]
    read = counts["read"]
    return {
        "read": read,
        "parts": [(state, counts[state], counts[state] / read if read else 0.0) for state in STATES],
        "adds_up": read == sum(counts[state] for state in STATES),
        "deleted": counts["deleted"],
        "attempted": embed["attempted"],
        "embedded": embed["contents_embedded"],
    }


def indexes(records: Records) -> list[IndexRow]:
    """One row a module and view, in the order of building."""
    evaluated = records.get("evaluate_index", {}).get("indexes", [])
    measured = {(entry["module"], entry["view"]): entry for entry in evaluated}
    limits = {result["rule"]: result["limit"] for result in records.get("gate", {}).get("results", [])}
    return [
        index_row(record, measured.get((record["module"], record["view"]), {}), limits)
        for record in records.get("build_index", {}).get("indexes", [])
    ]


def index_row(record: dict[str, Any], measured: dict[str, Any], limits: dict[str, float]) -> IndexRow:
    name, shards = f"{record['module']}/{record['view']}", record["shards"]
    return IndexRow(
        name=name,
        items=sum(shard["items"] for shard in shards),
        nodes=sum(shard["nodes"] for shard in shards),
        shards=len(shards),
        orphans=sum(shard["orphans"] for shard in shards),
        megabytes=sum(shard["graph"]["bytes"] + shard["items_file"]["bytes"] for shard in shards) / 1e6,
        ef=measured.get("ef_search"),
        compared=next(
            (p.get("compared") for p in measured.get("recall_curve", []) if p["ef"] == measured["ef_search"]), None
        ),
        recall=measured.get("recall"),
        limit=limits.get(f"recall {name}"),
    )


def styles(records: Records) -> list[tuple[str, dict[str, Any]]]:
    """(view, same-style R@1 with low, high, queries); empty where no style column is mapped."""
    return sorted(records.get("evaluate_index", {}).get("style_recall", {}).items())


def thresholds(records: Records) -> dict[str, Any] | None:
    """Of the bands, with the sentence that says where they come from; None before they were chosen."""
    evaluated = records.get("evaluate_index", {})
    if "thresholds" not in evaluated:
        return None
    return evaluated["thresholds"] | {"sentence": evaluated["threshold_sentence"].removeprefix("thresholds: ")}


def gate(records: Records) -> list[dict[str, Any]]:
    """The gate's results, what it refused first."""
    return sorted(records.get("gate", {}).get("results", []), key=lambda result: result["passed"])


def timings(records: Records) -> list[tuple[str, float, float, float | None]]:
    """(stage, seconds, share of the slowest, seconds in the parent's run)."""
    seconds = records.get("timings") or records.get("summary", {}).get("timings_s") or {}
    slowest, before = max(seconds.values(), default=0) or 1, (records.get("before") or {}).get("timings_s", {})
    return [(stage, value, value / slowest, before.get(stage)) for stage, value in seconds.items()]


def facts(records: Records) -> list[tuple[str, str]]:
    """(name, value) of what identifies the run, without what is not known."""
    summary, start = records.get("summary", {}), records.get("start", {})
    named = {
        "started": summary.get("started_at"),
        "ended": summary.get("ended_at"),
        "took": duration(summary.get("started_at"), summary.get("ended_at")),
        "source": summary.get("source"),
        "source version": summary.get("source_version") or start.get("source_version"),
        "encoder": start.get("encoder_id"),
        "parent release": start.get("parent") or "none",
        "release": summary.get("release_id"),
        "channel": summary.get("channel"),
        "settings digest": start.get("settings_digest"),
    }
    return [(name, str(value)) for name, value in named.items() if value]


def duration(started: str | None, ended: str | None) -> str | None:
    if not started or not ended:
        return None
    return clock((datetime.fromisoformat(ended) - datetime.fromisoformat(started)).total_seconds())


def notes(records: Records) -> list[str]:
    """What the run left out and why."""
    return records.get("summary", {}).get("notes", [])


SECTIONS: dict[str, Callable[[Records], Any]] = {
    section.__name__: section
    for section in (
        *(verdict, headline_numbers, ledger, moved, indexes, slices, styles, thresholds, drift, gate, timings),
        *(throughput, facts, notes),
    )
}


def environment() -> Environment:
    """Escapes everything that a template prints."""
    made = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    filters = (plain, block, data_uri, number, clock, spark)
    made.filters |= {function.__name__: function for function in filters}
    return made


def template() -> str:
    return (resources.files("samestyle.report") / "report.html.j2").read_text(encoding="utf-8")


def plain(text: object, most: int = 120) -> str:
    """Text of unknown origin as one line without control characters, cut to `most` characters."""
    line = normalise_title(None if text is None else str(text), most + 1) or ""
    return line if len(line) <= most else line[: most - 1].rstrip() + "…"


def block(text: str, most: int = 20_000) -> str:
    """Text of several lines as it is, but for control characters and what is behind `most` characters."""
    return CONTROL.sub("\N{REPLACEMENT CHARACTER}", text[:most])


def data_uri(data: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def number(value: float) -> str:
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:.4f}"
