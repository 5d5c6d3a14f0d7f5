"""Remove old releases, and the objects that no kept release names."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from samestyle.errors import UsageError
from samestyle.release.manifest import Manifest, manifest_key
from samestyle.release.publish import channels, list_releases, load_manifest
from samestyle.release.store import Store

DAY = 86_400.0


@dataclass(frozen=True)
class Garbage:
    """What was removed, or would be: release ids, sizes in bytes by object, number of half-written files."""

    releases: tuple[str, ...]
    objects: dict[str, int]
    unfinished: int

    @property
    def bytes(self) -> int:
        return sum(self.objects.values())


def collect_garbage(
    store: Store,
    keep: int,
    dry_run: bool = True,
    grace_s: float = DAY,
    clock: Callable[[], float] = time.time,
    check: Callable[[], None] = lambda: None,
) -> Garbage:
    """Keep the last `keep` releases, those that a channel names or would go back to, and all their objects.

    Nothing younger than `grace_s` seconds goes: a running build uploads before it publishes. Hold
    the nightly's lease, and give its `check`, which is called before each removal.
    Raises IntegrityError where a manifest is not readable, as its objects are then not known.
    """
    if keep < 1:
        raise UsageError(f"releases to keep are {keep}, expected at least 1")
    before = clock() - grace_s
    manifests = {release_id: load_manifest(store, release_id) for release_id in list_releases(store)}
    kept = kept_releases(store, manifests, keep, before)
    needed = {key for release_id in kept for key in manifests[release_id].objects()}
    objects = {
        key: store.size(key) for key in store.list("objects/") if key not in needed and store.modified_at(key) < before
    }
    releases = tuple(sorted(set(manifests) - kept))
    if dry_run:
        return Garbage(releases, objects, 0)
    for key in [
        *map(manifest_key, releases),
        *objects,
    ]:  # manifests first: none may name an object that is gone
        check()
        store.delete(key)
    return Garbage(releases, objects, store.sweep(before))


def kept_releases(store: Store, manifests: dict[str, Manifest], keep: int, before: float) -> set[str]:
    """Ids of the releases that stay."""
    newest = sorted(manifests, key=lambda release_id: (manifests[release_id].created_at, release_id))[-keep:]
    named = [name for pointer in channels(store).values() for name in (pointer.release_id, pointer.previous)]
    young = [name for name in manifests if store.modified_at(manifest_key(name)) >= before]
    return {name for name in (*newest, *named, *young) if name in manifests}
