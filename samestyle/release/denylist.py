"""The denylist: items that must not be shown, whatever a release says. Readers follow at their next refresh.

denylist    {"format_version": 1, "items": {item_id: {"at": ..., "reason": ...}}, "purge": ...}; changed by
            compare-and-swap
"""

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime

from samestyle.errors import ConflictError, IntegrityError, UsageError
from samestyle.release.manifest import decode, read_json
from samestyle.release.store import Store

KEY = "denylist"
FORMAT_VERSION = 1
MAX_BYTES = 2**28
MAX_ID = 4096
TRIES = 10


@dataclass(frozen=True)
class Denial:
    """Since when an item is hidden (ISO 8601, UTC), and why, if somebody said so."""

    at: str
    reason: str | None = None


@dataclass(frozen=True)
class Denylist:
    """Item ids with their denials; `purge`: when releases without dead vectors were last asked for (ISO 8601, UTC)."""

    items: dict[str, Denial]
    format_version: int = FORMAT_VERSION
    purge: str | None = None

    def __post_init__(self) -> None:
        if self.purge is not None:
            instant(self.purge)

    def is_purge_due(self, created_at: str) -> bool:
        """Whether a release whose run began then (ISO 8601, UTC) may still hold what was to be purged."""
        # Both are whole seconds: of the same second, it cannot be told which came first.
        return self.purge is not None and instant(self.purge) >= instant(created_at)

    def to_json(self) -> bytes:
        return json.dumps(asdict(self), indent=1, sort_keys=True, ensure_ascii=False).encode() + b"\n"

    @classmethod
    def from_json(cls, data: bytes) -> "Denylist":
        """Read untrusted bytes. Raises IntegrityError."""
        found = decode(cls, read_json(KEY, data, MAX_BYTES), "")
        if found.format_version != FORMAT_VERSION:
            raise IntegrityError(f"{KEY} has format_version {found.format_version}, expected {FORMAT_VERSION}")
        return found


def read_denylist(store: Store) -> Denylist:
    """What is hidden now; nothing in a new store. Raises IntegrityError."""
    data = store.find(KEY)
    return Denylist.from_json(data) if data is not None else Denylist({})


def deny(store: Store, item_ids: Iterable[str], reason: str | None = None) -> list[str]:
    """Hide these items; returns those that were not hidden before. Raises UsageError for an id that cannot be one."""
    wanted = [check_item_id(item_id) for item_id in dict.fromkeys(item_ids)]
    denial = Denial(datetime.now(UTC).isoformat(timespec="seconds"), reason)
    return changed(store, lambda found: replace(found, items={**dict.fromkeys(wanted, denial), **found.items}))


def allow(store: Store, item_ids: Iterable[str]) -> list[str]:
    """Hide these items no longer; returns those that were hidden."""
    unwanted = frozenset(item_ids)
    return changed(
        store,
        lambda found: replace(found, items={item: d for item, d in found.items.items() if item not in unwanted}),
    )


def purge(store: Store) -> int:
    """Have the next night's release carry no vector that none of its items has; returns how many items are denied.

    Raises UsageError where nothing is denied.
    """
    denied = len(read_denylist(store).items)
    if not denied:
        raise UsageError(f"nothing is denied in {store.uri}, so there is nothing to purge: deny items first")
    at = datetime.now(UTC).isoformat(timespec="seconds")
    changed(store, lambda found: replace(found, purge=at))
    return denied


def changed(store: Store, change: Callable[[Denylist], Denylist]) -> list[str]:
    """Change the list whatever others do to it meanwhile; returns the ids that came or went, sorted."""
    for attempt in range(TRIES):
        before = store.find(KEY)
        found = Denylist.from_json(before) if before is not None else Denylist({})
        new = change(found)
        if new.items.keys() == found.items.keys() and new.purge == found.purge:
            return []
        try:
            store.swap(KEY, before, new.to_json())
        except ConflictError:
            if attempt == TRIES - 1:
                raise
            continue
        return sorted(new.items.keys() ^ found.items.keys())
    raise AssertionError("unreachable")


def instant(text: str) -> datetime:
    """ISO 8601; UTC where it names no zone. Raises IntegrityError."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError as error:
        raise IntegrityError(f"{text!r} is no time, expected ISO 8601, such as 2026-01-31T23:00:00+00:00") from error
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def check_item_id(item_id: str) -> str:
    if not item_id or len(item_id) > MAX_ID:
        raise UsageError(f"{item_id[:40]!r} is no item id: expected 1 to {MAX_ID:,} characters")
    return item_id
