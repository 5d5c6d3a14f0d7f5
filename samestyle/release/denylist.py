"""The denylist: items that must not be shown, whatever a release says. Readers follow at their next refresh.

denylist    {"format_version": 1, "items": {item_id: {"at": ..., "reason": ...}}}; changed by compare-and-swap
"""

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
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
    """Item ids with their denials."""

    items: dict[str, Denial]
    format_version: int = FORMAT_VERSION

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
    return changed(store, lambda items: {**dict.fromkeys(wanted, denial), **items})


def allow(store: Store, item_ids: Iterable[str]) -> list[str]:
    """Hide these items no longer; returns those that were hidden."""
    unwanted = frozenset(item_ids)
    return changed(store, lambda items: {item: denial for item, denial in items.items() if item not in unwanted})


def changed(store: Store, change: Callable[[dict[str, Denial]], dict[str, Denial]]) -> list[str]:
    """Change the list whatever others do to it meanwhile; returns the ids that came or went, sorted."""
    for attempt in range(TRIES):
        before = store.find(KEY)
        items = Denylist.from_json(before).items if before is not None else {}
        new = change(items)
        if new.keys() == items.keys():
            return []
        try:
            store.swap(KEY, before, Denylist(new).to_json())
        except ConflictError:
            if attempt == TRIES - 1:
                raise
            continue
        return sorted(new.keys() ^ items.keys())
    raise AssertionError("unreachable")


def check_item_id(item_id: str) -> str:
    if not item_id or len(item_id) > MAX_ID:
        raise UsageError(f"{item_id[:40]!r} is no item id: expected 1 to {MAX_ID:,} characters")
    return item_id
