"""The commands of `samestyle runs`."""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from samestyle.console import COUNTS, Call, cell, print_pairs, print_table
from samestyle.errors import UsageError
from samestyle.progress import clock

TextTable = tuple[tuple[str, ...], list[tuple[str, ...]]]  # head, rows


def list_all(call: Call) -> None:
    folder = call.root / "runs"
    found = sorted(path.parent for path in folder.glob("*/summary.json"))
    if not found:
        print(f"no runs in {folder}")
        return
    rows = [run_row(path.name, read_record(path / "summary.json")) for path in found]
    print_table(("run", "started", "outcome", *COUNTS, "release"), sorted(rows, key=lambda row: row[1]))


def run_row(run_id: str, summary: dict[str, Any] | None) -> tuple[str, ...]:
    if summary is None:
        return (run_id, "", "not readable", *("" for _ in COUNTS), "")
    counts = part(summary, "counts")
    started, outcome, release = (cell(summary.get(key)) for key in ("started_at", "outcome", "release_id"))
    return (run_id, started, outcome, *(cell(counts.get(column)) for column in COUNTS), release)


def show(call: Call) -> None:
    folder = call.root / "runs"
    names = sorted(path.parent.name for path in folder.glob("*/summary.json"))
    if not names:
        raise UsageError(f"there are no runs in {folder}")
    run_id = call.arguments.id or names[-1]
    if run_id not in names:
        raise UsageError(f"there is no run {run_id} in {folder}: `samestyle runs list` shows all")
    summary = read_record(folder / run_id / "summary.json")
    if summary is None:
        raise UsageError(f"{folder / run_id / 'summary.json'} is not readable as JSON: look at the file")
    print_pairs(list(facts(folder / run_id, summary)))
    tables: tuple[TextTable, ...] = (recall_table(part(summary, "recall")), time_table(part(summary, "timings_s")))
    for head, rows in tables:
        if rows:
            print()
            print_table(head, rows)


def facts(folder: Path, summary: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """All but what has a table of its own; each sentence of a list on a line of its own."""
    for key, value in summary.items():
        if isinstance(value, list):
            yield from ((key, cell(one)) for one in value)
        elif key not in ("recall", "timings_s") and value not in (None, {}):
            yield key, cell(value)
    engine = read_record(folder / "throughput.json") or {}
    if engine.get("rows") and engine.get("seconds"):
        yield "engine", f"{engine['rows'] / engine['seconds']:.1f} contents/s, limited by {engine.get('limited_by')}"
    if (folder / "report.html").is_file():
        yield "report", str(folder / "report.html")


def recall_table(recall: dict[str, Any]) -> TextTable:
    rows: list[tuple[str, ...]] = [
        (index, f"@{one['k']} {one['value']:.4f}", f"{one['low']:.4f} to {one['high']:.4f}", cell(one["queries"]))
        for index, one in recall.items()
    ]
    return ("index", "recall", "interval", "queries"), rows


def time_table(seconds: dict[str, float]) -> TextTable:
    return ("stage", "time"), [(stage, clock(value)) for stage, value in seconds.items()]


def part(summary: dict[str, Any], name: str) -> dict[str, Any]:
    """A branch of a summary; an empty one where it is something else."""
    found = summary.get(name)
    return found if isinstance(found, dict) else {}


def read_record(path: Path) -> dict[str, Any] | None:
    """A record of a run, None if it cannot be read."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) else None


def add_arguments(command: argparse.ArgumentParser, name: str) -> None:
    if name == "show":
        command.add_argument("id", nargs="?", metavar="RUN")
