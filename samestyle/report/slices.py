"""Where an index finds least: recall by kind of query, category and shard, for the run report."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Records = Mapping[str, dict[str, Any]]
SHOWN = 3
PLURALS = {"category": "categories", "shard": "shards"}


@dataclass(frozen=True)
class SliceRow:
    """by: queries, category or shard; recall: value, low, high, queries."""

    by: str
    name: str
    recall: dict[str, Any]


@dataclass(frozen=True)
class SliceTable:
    """The slices of one index. rest: sentences of what is not shown. limit: the gate's, None before it has judged."""

    index: str
    limit: float | None
    rows: tuple[SliceRow, ...]
    rest: tuple[str, ...]


def slices(records: Records) -> list[SliceTable]:
    """One table an index: all kinds of queries, then the categories and shards that find least, a few of each."""
    limits = {result["rule"]: result["limit"] for result in records.get("gate", {}).get("results", [])}
    return [
        slice_table(index, limits.get(f"slices {index['module']}/{index['view']}"))
        for index in records.get("evaluate_index", {}).get("indexes", [])
        if index.get("recall_slices") or index.get("shard_recalls")
    ]


def slice_table(index: dict[str, Any], limit: float | None) -> SliceTable:
    rows = list(slice_rows(index))
    shown, rest = [row for row in rows if row.by == "queries"], []
    for by, plural in PLURALS.items():
        worst = sorted((row for row in rows if row.by == by), key=lambda row: (row.recall["high"], row.name))
        shown += worst[:SHOWN]
        if len(worst) > SHOWN:
            rest.append(f"{len(worst) - SHOWN:,} {plural} are found better")
    return SliceTable(f"{index['module']}/{index['view']}", limit, tuple(shown), tuple(rest))


def slice_rows(index: dict[str, Any]) -> Iterator[SliceRow]:
    for part in index.get("recall_slices", []):
        yield SliceRow(part["by"], part["name"], part)
    for shard in index.get("shard_recalls", []):
        named = {"value": shard["recall"], "low": shard["recall_low"], "high": shard["recall_high"]}
        yield SliceRow("shard", str(shard["shard"]), named | {"queries": index["recall"]["queries"]})
