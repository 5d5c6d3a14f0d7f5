"""`samestyle encoders`: list, show, compare, promote and register the encoders of a store. Needs no ONNX Runtime."""

import argparse
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

from samestyle.console import Call, counted, megabytes, print_pairs, print_table
from samestyle.encoder import promotion, registry
from samestyle.encoder.files import MANIFEST
from samestyle.errors import SamestyleError, UsageError
from samestyle.evaluation import comparison, records
from samestyle.release.store import Store

HEADLINES = ("m-m", "i-i")
LONGEST = 40


def add_arguments(command: argparse.ArgumentParser, name: str) -> None:
    about = "an encoder's id, or the first characters of it, at least 4"
    if name == "register":
        command.add_argument("folder", metavar="FOLDER", type=Path, help="an exported encoder")
    elif name == "compare":
        command.add_argument("first", metavar="A", help=about)
        command.add_argument("second", metavar="B", help="another one; differences are B - A")
        command.add_argument("--evaluation", metavar="NAME", help="which one (default: the latest that both have)")
        command.add_argument("--metric", choices=records.METRICS, default="recall@1", help="default: %(default)s")
    elif name in ("show", "promote"):
        command.add_argument("id", metavar="ID", help=about)
    if name == "promote":
        command.add_argument("--force", metavar="REASON", help="although some contents are missing; it is recorded")


def list_all(call: Call) -> None:
    store, ids = call.store, registry.list_encoders(call.store)
    if not ids:
        print(f"no encoders in {store.uri}")
        return
    current = registry.current_encoder(store)
    rows = [encoder_row(store, encoder_id, encoder_id == current) for encoder_id in ids]
    head = ("encoder", "kind", "dim", "trained on", "made", *(f"{d} R@1" for d in HEADLINES), "")
    print_table(head, sorted(rows, key=lambda row: row[4]))


def encoder_row(store: Store, encoder_id: str, current: bool) -> tuple[str, ...]:
    mark = "current" if current else ""
    try:
        manifest = registry.encoder_manifest(store, encoder_id)
        recorded = list(registry.evaluations(store, encoder_id).values())
    except SamestyleError:
        return (encoder_id, "not readable", "", "", "", *("" for _ in HEADLINES), mark)
    identity, latest = manifest["identity"], mean_figures(recorded[-1]) if recorded else {}
    return (
        encoder_id,
        str(identity["kind"]),
        str(identity["dim"]),
        shortened(trained_on(manifest)),
        made_at(store, manifest),
        *(number(latest.get(direction, {}).get("recall@1")) for direction in HEADLINES),
        mark,
    )


def show(call: Call) -> None:
    store = call.store
    encoder_id = registry.find_encoder(store, call.arguments.id)
    print_pairs(encoder_facts(store, encoder_id))
    for name, record in registry.evaluations(store, encoder_id).items():
        print(f"\nevaluation {name}, {str(record.get('recorded_at', ''))[:19]}")
        rows = [
            (direction, *(number(metrics.get(metric)) for metric in records.METRICS), number(metrics.get("queries")))
            for direction, metrics in mean_figures(record).items()
        ]
        print_table(("direction", "MRR", "R@1", "R@5", "R@10", "R@20", "queries"), rows)
    card = store.find(registry.encoder_key(encoder_id, "card.md"))
    if card is not None:
        print("\n" + card.decode("utf-8", "replace").rstrip())


def encoder_facts(store: Store, encoder_id: str) -> list[tuple[str, str]]:
    manifest = registry.encoder_manifest(store, encoder_id)
    identity, files = manifest["identity"], manifest["files"]
    coverage = promotion.read_coverage(store, encoder_id)
    size = sum(entry["bytes"] for entry in files.values())
    facts = [
        ("encoder", encoder_id + (" (current)" if registry.current_encoder(store) == encoder_id else "")),
        ("kind", str(identity["kind"])),
        ("dimensions", str(identity["dim"])),
        ("trained on", trained_on(manifest)),
        ("training digest", str(manifest.get("training_digest") or "")),
        ("made", made_at(store, manifest)),
        ("files", f"{counted(len(files), 'file')}, {megabytes(size)} MB"),
        ("backfill", coverage_sentence(coverage) if coverage else ""),
    ]
    return [(name, value) for name, value in facts if value]


def coverage_sentence(coverage: promotion.Coverage) -> str:
    counts = f"{coverage.finished:,} of {coverage.wanted:,} contents finished"
    return f"{counts} for release {coverage.release_id or 'none'}, {coverage.measured_at}"


def promote(call: Call) -> None:
    if call.settings.encoder.path is not None:
        raise UsageError(
            f"encoder.path is {call.settings.encoder.path} in your settings, and the next run would make that one "
            "current again: remove encoder.path, then promote"
        )
    encoder_id = registry.find_encoder(call.store, call.arguments.id)
    before = promotion.promote(call.store, encoder_id, call.channel, call.arguments.force)
    if before == encoder_id:
        print(f"encoder {encoder_id} is the current one already")
    else:
        print(f"the next run uses encoder {encoder_id}, {before or 'none'} before; it builds every shard anew")


def register(call: Call) -> None:
    encoder_id = registry.register(call.store, call.arguments.folder)
    print(f"encoder {encoder_id} is in {call.store.uri}")
    if registry.current_encoder(call.store) != encoder_id:
        print(f"it is a candidate: {promotion.way_out(encoder_id)}, then `samestyle encoders promote {encoder_id}`")


def compare(call: Call) -> None:
    store, metric = call.store, call.arguments.metric
    ids = [registry.find_encoder(store, prefix) for prefix in (call.arguments.first, call.arguments.second)]
    name = common_evaluation(store, ids[0], ids[1], call.arguments.evaluation)
    first, second = (query_results(store, encoder_id, name) for encoder_id in ids)
    current = registry.current_encoder(store)
    for letter, encoder_id in zip("AB", ids, strict=True):
        print(f"{letter}  {encoder_id}{' (current)' if encoder_id == current else ''}")
    print(f"{metric} on {name}; B - A by query, with its 95 % interval\n")
    rows = [compared_row(line) for line in comparison.compare(first, second, (metric,))]
    print_table(("set", "direction", "queries", "A", "B", "difference", "interval", "B is"), rows)


def compared_row(line: comparison.Compared) -> tuple[str, ...]:
    found = line.difference
    interval = f"{found.low:+.3f} to {found.high:+.3f}"
    means = f"{line.first:.3f}", f"{line.second:.3f}", f"{found.mean:+.3f}"
    return (line.set, line.direction, f"{line.queries:,}", *means, interval, line.verdict)


def common_evaluation(store: Store, first: str, second: str, name: str | None) -> str:
    """The evaluation to compare by: the one named, or the latest that both encoders have. Raises UsageError."""
    ours, theirs = (list(registry.evaluations(store, encoder_id)) for encoder_id in (first, second))
    common = [one for one in theirs if one in ours and name in (None, one)]
    if common:
        return common[-1]
    wanted = f"the evaluation {name}" if name else "an evaluation in common, of the same queries over the same pool"
    has = "; ".join(f"{i} has {', '.join(known) or 'none'}" for i, known in ((first, ours), (second, theirs)))
    raise UsageError(
        f"the encoders do not both have {wanted}: {has}; run ./spark-submit.sh evaluate_encoder --encoder ID for each, "
        "with the same settings"
    )


def query_results(store: Store, encoder_id: str, name: str) -> pa.Table:
    """What an evaluation found for each query. Raises UsageError where that was not kept."""
    data = registry.evaluation_queries(store, encoder_id, name)
    if data is None:
        raise UsageError(
            f"evaluation {name} of encoder {encoder_id} has no results by query: "
            f"run ./spark-submit.sh evaluate_encoder --encoder {encoder_id} again"
        )
    return records.read_results(data)


def mean_figures(record: Mapping[str, Any]) -> records.Figures:
    """Direction to its figures, the mean over the sets of an evaluation."""
    return record.get("mean") or {}


def trained_on(manifest: Mapping[str, Any]) -> str:
    names = [str(entry.get("name")) for entry in manifest.get("training", ())]
    return ", ".join(names) or str(manifest.get("fitted_on") or "")


def made_at(store: Store, manifest: Mapping[str, Any]) -> str:
    """When it was exported; where encoder.json does not say, when it was registered."""
    said = manifest.get("created_at")
    written = datetime.fromtimestamp(store.modified_at(registry.encoder_key(manifest["encoder_id"], MANIFEST)), UTC)
    return str(said or written.isoformat())[:19]


def shortened(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3].rstrip()}..."


def number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.3f}" if isinstance(value, float) else f"{value:,}"
