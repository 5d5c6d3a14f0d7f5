"""Publish, look up, verify and roll back releases. Channels alone ever change, by compare-and-swap."""

import dataclasses
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime

from samestyle.errors import ConflictError, IntegrityError, RefusedError, UsageError
from samestyle.release.gate import failures
from samestyle.release.manifest import (
    MAX_MANIFEST_BYTES,
    NAME,
    Change,
    Manifest,
    Pointer,
    digest,
    manifest_key,
)
from samestyle.release.store import MissingObjectError, ObjectRef, Store

HISTORY = 50
# Objects that are read and compared at once.
READERS = 4


@dataclass(frozen=True)
class Verified:
    """What a verification looked at; `deep` where every byte was read."""

    objects: int
    bytes: int
    deep: bool


def publish(
    store: Store,
    manifest: Manifest,
    channel: str,
    expected_parent: str | None,
    force_reason: str | None = None,
    known: Collection[str] = (),
    check: Callable[[], None] = lambda: None,
) -> Pointer:
    """Verify the release's objects, write its manifest, point the channel at it; in that order.

    `manifest.gate` holds the gate's results. expected_parent: what the channel named when the run started. known: keys
    of objects whose bytes were compared before, so that their sizes are enough. check: raises where the run's lease is
    lost; called before each write.
    Raises RefusedError where the gate did not pass and no reason is given, IntegrityError where an object is
    missing or damaged, ConflictError where the channel has moved. Publishing the same again is harmless.
    """
    manifest = judge(manifest, force_reason)
    data = manifest.to_json()
    Manifest.from_json(data)  # what cannot be read is not written
    key, before = channel_key(channel), store.find(channel_key(channel))
    pointer = Pointer.from_json(before) if before else None
    if pointer and pointer.release_id == manifest.release_id and pointer.manifest_sha256 == digest(data):
        return pointer
    require_parent(channel, pointer, expected_parent)
    verify_release(store, manifest, known=known)
    check()
    if store.find(manifest_key(manifest.release_id)) != data:
        store.swap(manifest_key(manifest.release_id), None, data)
    check()
    new = moved(pointer, "publish", manifest.release_id, digest(data), pointer.release_id if pointer else None)
    store.swap(key, before, new.to_json())
    return new


def judge(manifest: Manifest, force_reason: str | None) -> Manifest:
    """The manifest as it may be published, the reason recorded where one was needed. Raises RefusedError."""
    if not manifest.gate:
        raise RefusedError(f"release {manifest.release_id} has no gate results: run the gate before publishing")
    failed = failures(manifest.gate)
    if not failed:
        return manifest
    if force_reason and force_reason.strip():
        return dataclasses.replace(manifest, forced=force_reason.strip())
    sentences = "".join(f"\n  {result.rule}: {result.sentence}" for result in failed)
    raise RefusedError(
        f"the gate refused release {manifest.release_id} by {len(failed)} of {len(manifest.gate)} rules, "
        f"the release that serves now stays:{sentences}"
    )


def require_parent(channel: str, pointer: Pointer | None, expected: str | None) -> None:
    found = pointer.release_id if pointer else None
    if found != expected:
        raise ConflictError(
            f"channel {channel} names {found or 'nothing'}, this run started from {expected or 'nothing'}: "
            "somebody published or rolled back meanwhile; run again"
        )


def moved(pointer: Pointer | None, action: str, release_id: str, sha256: str, previous: str | None) -> Pointer:
    """The channel after a move, which is recorded."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    history = (*(pointer.history if pointer else ()), Change(action, release_id, sha256, now))
    return Pointer(release_id, sha256, now, previous, history[-HISTORY:])


def channel_key(channel: str) -> str:
    """Where a channel lies in its store. Raises UsageError."""
    if not NAME.fullmatch(channel):
        raise UsageError(f"{channel!r} is no channel: expected a name such as current or candidate")
    return f"channels/{channel}"


def read_pointer(store: Store, channel: str) -> Pointer | None:
    """What a channel names, None for nothing yet. Raises IntegrityError."""
    data = store.find(channel_key(channel))
    return Pointer.from_json(data) if data is not None else None


def current_release(store: Store, channel: str = "current") -> tuple[Pointer, Manifest] | None:
    """What a channel names, with its manifest; None where nothing was published. Raises IntegrityError."""
    pointer = read_pointer(store, channel)
    return (pointer, load_manifest(store, pointer.release_id, pointer.manifest_sha256)) if pointer else None


def load_manifest(store: Store, release_id: str, sha256: str | None = None) -> Manifest:
    """Read a manifest. Raises UsageError if there is none, IntegrityError if it is not what `sha256` says."""
    key = manifest_key(release_id)
    try:
        if (size := store.size(key)) > MAX_MANIFEST_BYTES:
            raise IntegrityError(f"{key} has {size} bytes, expected at most {MAX_MANIFEST_BYTES}")
        data = store.get(key)
    except MissingObjectError:
        raise UsageError(
            f"there is no release {release_id} in {store.uri}: `samestyle releases list` shows all"
        ) from None
    if sha256 is not None and digest(data) != sha256:
        raise IntegrityError(
            f"{key} has sha256 {digest(data)}, its channel says {sha256}: it was changed since; "
            "restore it, or roll back to another release"
        )
    manifest = Manifest.from_json(data)
    if manifest.release_id != release_id:
        raise IntegrityError(f"{key} says that it is release {manifest.release_id}, expected {release_id}")
    return manifest


def list_releases(store: Store) -> list[str]:
    """Ids of all releases whose manifest is written, sorted."""
    parts = (key.split("/") for key in store.list("releases/"))
    return sorted(part[1] for part in parts if len(part) == 3 and part[2] == "manifest.json")


def channels(store: Store) -> dict[str, Pointer]:
    """All channels. Raises IntegrityError if one is not readable."""
    names = [key.removeprefix("channels/") for key in store.list("channels/")]
    found = {name: read_pointer(store, name) for name in names}
    return {name: pointer for name, pointer in found.items() if pointer}


def find_damage(store: Store, manifest: Manifest, deep: bool, known: Collection[str] = ()) -> Iterator[str]:
    """One sentence for each object that is missing or not what the manifest says.

    Not deep: sizes only; of the `known` ones as well.
    """

    def look(ref: ObjectRef) -> str | None:
        return damage_of(store, ref, deep and ref.key not in known)

    with ThreadPoolExecutor(READERS) as pool:
        yield from filter(None, pool.map(look, manifest.objects().values()))


def damage_of(store: Store, ref: ObjectRef, deep: bool) -> str | None:
    """What is wrong with an object, None where nothing is."""
    try:
        size = store.size(ref.key)
        if size != ref.bytes:
            return f"{ref.key} has {size} bytes, the manifest says {ref.bytes}"
        if deep and (found := store.digest(ref.key)[0]) != ref.sha256:
            return f"{ref.key} has sha256 {found}, the manifest says {ref.sha256}"
    except MissingObjectError:
        return f"{ref.key} is missing"
    return None


def verify_release(store: Store, release: str | Manifest, deep: bool = True, known: Collection[str] = ()) -> Verified:
    """Compare every object of a release with its manifest. Raises IntegrityError listing what is wrong."""
    manifest = release if isinstance(release, Manifest) else load_manifest(store, release, known_digest(store, release))
    refs: list[ObjectRef] = list(manifest.objects().values())
    require_sound(manifest, list(find_damage(store, manifest, deep, known)))
    return Verified(len(refs), sum(ref.bytes for ref in refs), deep)


def require_sound(manifest: Manifest, damage: list[str]) -> None:
    """Raise IntegrityError with these sentences, if there are any."""
    if damage:
        more = f"\n  and {len(damage) - 20} more" if len(damage) > 20 else ""
        raise IntegrityError(
            f"release {manifest.release_id} is damaged in {len(damage)} of {len(manifest.objects())} objects: "
            f"delete those files and build again, or serve another release\n  " + "\n  ".join(damage[:20]) + more
        )


def known_digest(store: Store, release_id: str) -> str | None:
    """sha256 of a release's manifest, where a channel remembers it."""
    for pointer in channels(store).values():
        for known, sha256 in pointer.known_digests():
            if known == release_id:
                return sha256
    return None


def rollback(store: Store, channel: str = "current", to: str | None = None, deep: bool = True) -> Pointer:
    """Point a channel at its previous release, or at `to`, after verifying that one.

    Rolling back again goes further back: `previous` becomes the parent of the release that serves now.
    Raises UsageError where there is nothing to go back to, IntegrityError where the target is damaged.
    """
    key, before = channel_key(channel), store.find(channel_key(channel))
    pointer = Pointer.from_json(before) if before else None
    target = to or (pointer.previous if pointer else None)
    if pointer is None or target is None:
        raise UsageError(
            f"channel {channel} has no release before {pointer.release_id if pointer else 'its first one'}: "
            "name the release that shall serve"
        )
    if target == pointer.release_id:
        raise UsageError(f"channel {channel} names {target} already")
    manifest = load_manifest(store, target, known_digest(store, target))
    verify_release(store, manifest, deep=deep)
    sha256 = digest(store.get(manifest_key(target)))
    previous = manifest.parent if manifest.parent in list_releases(store) else None
    new = moved(pointer, "rollback", target, sha256, previous)
    store.swap(key, before, new.to_json())
    return new


def promote(store: Store, source: str, target: str = "current", deep: bool = True) -> Pointer:
    """Let a channel name what another one names, after verifying that release. A rollback undoes it.

    Raises UsageError where `source` names nothing or the same, ConflictError where `target` moved meanwhile,
    IntegrityError where the release is damaged.
    """
    candidate = read_pointer(store, source)
    key, before = channel_key(target), store.find(channel_key(target))
    pointer = Pointer.from_json(before) if before else None
    if candidate is None:
        raise UsageError(f"channel {source} names no release: publish one there with release.channel={source}")
    if pointer and pointer.release_id == candidate.release_id:
        raise UsageError(f"channel {target} names {candidate.release_id} already")
    manifest = load_manifest(store, candidate.release_id, candidate.manifest_sha256)
    verify_release(store, manifest, deep=deep)
    previous = pointer.release_id if pointer else None
    new = moved(pointer, "promote", candidate.release_id, candidate.manifest_sha256, previous)
    store.swap(key, before, new.to_json())
    return new
