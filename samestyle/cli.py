"""The console script `samestyle`: everything around releases, encoders and runs that needs neither Spark nor Java."""

import argparse
import json
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from samestyle import __version__, encoder_commands
from samestyle.console import Call, cell, counted, megabytes, print_pairs, print_table
from samestyle.errors import SamestyleError, UsageError
from samestyle.release.export import export_release
from samestyle.release.lease import NIGHTLY, Holder, Lease
from samestyle.release.manifest import Manifest
from samestyle.release.publish import (
    channels,
    known_digest,
    list_releases,
    load_manifest,
    read_pointer,
    rollback,
    verify_release,
)
from samestyle.release.retention import collect_garbage
from samestyle.release.store import Store
from samestyle.settings import ENVIRONMENTS, load_settings

OVERRIDE = re.compile(r"[a-z_]+(\.[A-Za-z0-9_-]+)+=.*", re.DOTALL)
COUNTS = ("read", "fresh", "reused", "stale", "degraded", "rejected", "deleted")


def releases_list(call: Call) -> None:
    named: dict[str, list[str]] = {}
    for channel, pointer in channels(call.store).items():
        named.setdefault(pointer.release_id, []).append(channel)
    rows = [release_row(call.store, name, named.get(name, [])) for name in list_releases(call.store)]
    if not rows:
        print(f"no releases in {call.store.uri}")
        return
    head = ("release", "created", "items", "recall", "MB", "gate", "channels")
    print_table(head, sorted(rows, key=lambda row: row[1]))


def release_row(store: Store, release_id: str, channel_names: list[str]) -> tuple[str, ...]:
    names = ", ".join(channel_names)
    try:
        manifest = load_manifest(store, release_id)
    except SamestyleError:
        return (release_id, "", "", "", "", "not readable", names)
    recall = min(index.recall.value for index in manifest.indexes)
    return (
        release_id,
        manifest.created_at,
        f"{max(map(manifest.module_items, manifest.modules())):,}",
        f"{recall:.3f}",
        megabytes(sum(ref.bytes for ref in manifest.objects().values())),
        "forced" if manifest.forced else "passed",
        names,
    )


def releases_show(call: Call) -> None:
    release_id = call.release_id()
    manifest = load_manifest(call.store, release_id, known_digest(call.store, release_id))
    print_pairs(release_facts(manifest))
    print()
    print_table(
        ("index", "items", "nodes", "shards", "m", "ef_search", "recall", "interval", "orphans"),
        [index_row(manifest, position) for position in range(len(manifest.indexes))],
    )
    print()
    print_table(
        ("gate", "", "finding"),
        [(result.rule, "passed" if result.passed else "FAILED", result.sentence) for result in manifest.gate],
    )


def release_facts(manifest: Manifest) -> list[tuple[str, str]]:
    style = manifest.style_recall or {}
    facts = [
        ("release", manifest.release_id),
        ("created", manifest.created_at),
        ("parent", manifest.parent or "none"),
        ("run", manifest.run_id),
        ("code", manifest.code_version),
        ("catalogue", f"{manifest.source.table} {manifest.source.version or ''}".strip()),
        ("encoder", f"{manifest.encoder.encoder_id} ({manifest.encoder.dim} dimensions)"),
        ("ledger", ", ".join(f"{manifest.ledger.get(state, 0):,} {state}" for state in COUNTS)),
        ("same-style R@1", ", ".join(f"{view} {value:.3f}" for view, value in style.items())),
        ("forced", manifest.forced or ""),
    ]
    return [(name, value) for name, value in facts if value]


def index_row(manifest: Manifest, position: int) -> tuple[str, ...]:
    index = manifest.indexes[position]
    recall = index.recall
    return (
        f"{index.module}/{index.view}",
        f"{index.items:,}",
        f"{index.nodes:,}",
        str(len(index.shards)),
        str(index.m),
        str(index.ef_search),
        f"@{recall.k} {recall.value:.3f}",
        f"{recall.low:.3f} to {recall.high:.3f}",
        str(index.orphans),
    )


def releases_verify(call: Call) -> None:
    release_id = call.release_id()
    verified = verify_release(call.store, release_id)
    size = megabytes(verified.bytes)
    print(f"release {release_id} is sound: {verified.objects} objects, {size} MB read and compared")


def releases_rollback(call: Call) -> None:
    before = read_pointer(call.store, call.channel)
    pointer = rollback(call.store, call.channel, call.arguments.id, deep=not call.arguments.quick)
    was = before.release_id if before else "nothing"
    print(f"channel {call.channel} names {pointer.release_id} now, {was} before")


def releases_gc(call: Call) -> None:
    release, delete = call.settings.release, call.arguments.delete
    grace_s = 3600 * release.grace_hours
    if not delete:
        garbage = collect_garbage(call.store, release.keep, grace_s=grace_s)
    else:
        holder = Holder.of_this_process("releases-gc")
        with Lease.acquire(call.store, NIGHTLY, holder, call.settings.lock.lease_s) as lease:
            garbage = collect_garbage(call.store, release.keep, dry_run=False, grace_s=grace_s, check=lease.check)
    verb = "removed" if delete else "would remove"
    for release_id in garbage.releases:
        print(f"{verb} release {release_id}")
    counts = f"{counted(len(garbage.releases), 'release')} and {counted(len(garbage.objects), 'object')}"
    print(f"{verb} {counts}, {megabytes(garbage.bytes)} MB")
    if not delete and (garbage.releases or garbage.objects):
        print("nothing was changed: add --delete")


def releases_export(call: Call) -> None:
    manifest = export_release(call.store, call.release_id(), call.arguments.folder)
    print(f"exported release {manifest.release_id} to {Path(call.arguments.folder).absolute()}")


def runs_list(call: Call) -> None:
    folder = call.root / "runs"
    found = sorted(path.parent for path in folder.glob("*/summary.json"))
    if not found:
        print(f"no runs in {folder}")
        return
    rows = [run_row(path.name, read_summary(path / "summary.json")) for path in found]
    print_table(("run", "started", "outcome", *COUNTS, "release"), sorted(rows, key=lambda row: row[1]))


def run_row(run_id: str, summary: dict[str, Any] | None) -> tuple[str, ...]:
    if summary is None:
        return (run_id, "", "not readable", *("" for _ in COUNTS), "")
    counts = summary.get("counts")
    cells = (cell(counts.get(column) if isinstance(counts, dict) else None) for column in COUNTS)
    started, outcome, release = (cell(summary.get(key)) for key in ("started_at", "outcome", "release_id"))
    return (run_id, started, outcome, *cells, release)


def runs_show(call: Call) -> None:
    folder = call.root / "runs"
    names = sorted(path.parent.name for path in folder.glob("*/summary.json"))
    if not names:
        raise UsageError(f"there are no runs in {folder}")
    run_id = call.arguments.id or names[-1]
    if run_id not in names:
        raise UsageError(f"there is no run {run_id} in {folder}: `samestyle runs list` shows all")
    summary = read_summary(folder / run_id / "summary.json")
    if summary is None:
        raise UsageError(f"{folder / run_id / 'summary.json'} is not readable as JSON: look at the file")
    print_pairs([(key, cell(value)) for key, value in summary.items() if value not in (None, [], {})])


def read_summary(path: Path) -> dict[str, Any] | None:
    """A run's summary, None if it cannot be read."""
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return summary if isinstance(summary, dict) else None


COMMANDS: dict[str, tuple[str, dict[str, tuple[str, Callable[[Call], None]]]]] = {
    "releases": (
        "look at releases, verify them, go back to one",
        {
            "list": ("all releases, and which channel names which", releases_list),
            "show": ("one release: counts, recall, the gate's findings", releases_show),
            "verify": ("compare every byte with the manifest; exit code 1 if one differs", releases_verify),
            "rollback": (
                "let the channel name the release before, or the one that you name",
                releases_rollback,
            ),
            "gc": ("remove releases beyond release.keep, and objects that none needs", releases_gc),
            "export": ("write a release to a folder that needs no store", releases_export),
        },
    ),
    "encoders": (
        "look at encoders, compare two, choose the one that the next run uses",
        {
            "list": ("all encoders, and which is current", encoder_commands.list_all),
            "show": ("one encoder: its files, training, evaluations and card", encoder_commands.show),
            "compare": ("two encoders side by side, by their recorded evaluations", encoder_commands.compare),
            "promote": ("let the next run use it, once `backfill` has embedded what serves", encoder_commands.promote),
            "register": ("put an exported encoder's folder into the store", encoder_commands.register),
        },
    ),
    "runs": (
        "look at the runs of the nightly job",
        {
            "list": ("all runs with their outcome", runs_list),
            "show": ("one run's summary; the latest by default", runs_show),
        },
    ),
}


def make_parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)
    common.add_argument("--env", choices=ENVIRONMENTS, help="which conf/<env>.yaml (default: SAMESTYLE_ENV, or demo)")
    common.add_argument("--settings", metavar="FILE", help="a further settings file")
    common.add_argument("--channel", help="the channel (default: release.channel)")
    parser = argparse.ArgumentParser(
        "samestyle", description=__doc__, parents=[common], epilog="Any setting can be given as a.b=value."
    )
    parser.add_argument("--version", action="version", version=f"samestyle {__version__}")
    groups = parser.add_subparsers(metavar="WHAT", required=True)
    for group, (about, commands) in COMMANDS.items():
        actions = groups.add_parser(group, help=about, description=about)
        names = actions.add_subparsers(metavar="ACTION", required=True)
        for name, (text, function) in commands.items():
            command = names.add_parser(name, help=text, description=text, parents=[common])
            command.set_defaults(function=function)
            add_own_arguments(command, group, name)
    return parser


def add_own_arguments(command: argparse.ArgumentParser, group: str, name: str) -> None:
    if group == "encoders":
        encoder_commands.add_arguments(command, name)
    elif name == "export":
        command.add_argument("folder", metavar="DIR", help="a new or empty folder")
        command.add_argument("--id", help="the release (default: the one that the channel names)")
    elif name in ("show", "verify", "rollback"):
        command.add_argument("id", nargs="?", metavar="RUN" if group == "runs" else "ID")
    if name == "rollback":
        command.add_argument("--quick", action="store_true", help="compare sizes only, not every byte")
    if name == "gc":
        command.add_argument("--delete", action="store_true", help="really remove; without it, say what would go")


def call_from(argv: Sequence[str]) -> Call:
    """Read the command line. Raises UsageError, or SystemExit as argparse does."""
    overrides = [word for word in argv if OVERRIDE.fullmatch(word)]
    arguments = make_parser().parse_args([word for word in argv if not OVERRIDE.fullmatch(word)])
    for name in ("env", "settings", "channel"):
        setattr(arguments, name, getattr(arguments, name, None))
    return Call(arguments, load_settings(arguments.env, arguments.settings, overrides))


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    try:
        call = call_from(sys.argv[1:] if argv is None else argv)
        call.arguments.function(call)
    except SamestyleError as error:
        print(f"samestyle: {error}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        sys.stderr.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
