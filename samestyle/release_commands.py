"""The commands of `samestyle releases`."""

import argparse
from pathlib import Path

from samestyle.console import COUNTS, Call, cell, counted, megabytes, print_pairs, print_table
from samestyle.errors import SamestyleError
from samestyle.release.comparison import IndexChange, compare
from samestyle.release.export import export_release, verify_export
from samestyle.release.lease import NIGHTLY, Holder, Lease
from samestyle.release.manifest import Manifest
from samestyle.release.publish import (
    channels,
    known_digest,
    list_releases,
    load_manifest,
    promote,
    read_pointer,
    rollback,
    verify_release,
)
from samestyle.release.retention import collect_garbage
from samestyle.release.store import Store


def list_all(call: Call) -> None:
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


def show(call: Call) -> None:
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


def verify(call: Call) -> None:
    if call.arguments.dir:
        verified, what = verify_export(call.arguments.dir), f"the export in {call.arguments.dir}"
    else:
        release_id = call.release_id()
        verified, what = verify_release(call.store, release_id), f"release {release_id}"
    size = megabytes(verified.bytes)
    print(f"{what} is sound: {verified.objects} objects, {size} MB read and compared")


def diff(call: Call) -> None:
    store, names = call.store, (call.arguments.before, call.arguments.after)
    before, after = (load_manifest(store, name, known_digest(store, name)) for name in names)
    found = compare(store, before, after)
    print_table(("index", *names, "came", "went", "recall"), [change_row(change) for change in found.indexes])
    print()
    facts = [(name, f"{cell(old)} -> {cell(new)}") for name, (old, new) in found.settings.items()]
    if before.encoder.encoder_id != after.encoder.encoder_id:
        facts.insert(0, ("encoder", f"{before.encoder.encoder_id} -> {after.encoder.encoder_id}"))
    shared = f"{found.shared_objects} objects shared, {megabytes(found.fetch_bytes)} MB to fetch"
    print_pairs([*facts, ("readers", shared)])


def change_row(change: IndexChange) -> tuple[str, ...]:
    items = [f"{index.items:,}" if index else "" for index in (change.before, change.after)]
    recall = " -> ".join(f"{index.recall.value:.3f}" for index in (change.before, change.after) if index)
    return (change.name, *items, examples(change.came), examples(change.went), recall)


def examples(ids: tuple[str, ...], most: int = 3) -> str:
    """How many, and the first of them."""
    some = ", ".join(ids[:most]) + (", ..." if len(ids) > most else "")
    return f"{len(ids):,} ({some})" if ids else "0"


def promote_one(call: Call) -> None:
    source, target = call.arguments.source, call.channel
    pointer = promote(call.store, source, target, deep=not call.arguments.quick)
    print(f"channel {target} names {pointer.release_id} now, {pointer.previous or 'nothing'} before")


def roll_back(call: Call) -> None:
    before = read_pointer(call.store, call.channel)
    pointer = rollback(call.store, call.channel, call.arguments.id, deep=not call.arguments.quick)
    was = before.release_id if before else "nothing"
    print(f"channel {call.channel} names {pointer.release_id} now, {was} before")


def history(call: Call) -> None:
    pointer = read_pointer(call.store, call.channel)
    if pointer is None:
        print(f"channel {call.channel} of {call.store.uri} has named nothing yet")
        return
    print_table(("at", "move", "release"), [(move.at, move.action, move.release_id) for move in pointer.history])


def collect(call: Call) -> None:
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
    if garbage.unfinished:
        print(f"{verb} {counted(garbage.unfinished, 'half-written file')} of runs that were killed")
    if not delete and (garbage.releases or garbage.objects):
        print("nothing was changed: add --delete")


def export(call: Call) -> None:
    manifest = export_release(call.store, call.release_id(), call.arguments.folder)
    print(f"exported release {manifest.release_id} to {Path(call.arguments.folder).absolute()}")


def add_arguments(command: argparse.ArgumentParser, name: str) -> None:
    if name == "export":
        command.add_argument("folder", metavar="DIR", help="a new or empty folder")
        command.add_argument("--id", help="the release (default: the one that the channel names)")
    if name in ("show", "verify", "rollback"):
        command.add_argument("id", nargs="?", metavar="ID")
    if name == "verify":
        command.add_argument("--dir", metavar="EXPORTED", help="a folder that `export` wrote, in place of the store")
    if name == "diff":
        command.add_argument("before", metavar="A")
        command.add_argument("after", metavar="B")
    if name == "promote":
        command.add_argument("source", metavar="CHANNEL", help="the channel whose release is taken, as in candidate")
    if name in ("rollback", "promote"):
        command.add_argument("--quick", action="store_true", help="compare sizes only, not every byte")
    if name == "gc":
        command.add_argument("--delete", action="store_true", help="really remove; without it, say what would go")
