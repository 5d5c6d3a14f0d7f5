"""What a release changes against another one: by the manifests, and by the item files that they do not share."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq

from samestyle.release.manifest import Index, Manifest
from samestyle.release.store import ObjectRef, Store


@dataclass(frozen=True)
class IndexChange:
    """One module and view in both releases; None where a release does not have it. came, went: item ids, sorted."""

    name: str
    before: Index | None
    after: Index | None
    came: tuple[str, ...]
    went: tuple[str, ...]


@dataclass(frozen=True)
class Comparison:
    """fetch_bytes: what a reader that has the first release downloads for the second. settings: key to both values."""

    indexes: tuple[IndexChange, ...]
    settings: dict[str, tuple[Any, Any]]
    shared_objects: int
    fetch_bytes: int


def compare(store: Store, before: Manifest, after: Manifest) -> Comparison:
    """Raises IntegrityError for an item file that is damaged."""
    old, new = before.objects(), after.objects()
    return Comparison(
        tuple(index_changes(store, before, after)),
        differing(flat(before.settings), flat(after.settings)),
        len(old.keys() & new.keys()),
        sum(ref.bytes for key, ref in new.items() if key not in old),
    )


def index_changes(store: Store, before: Manifest, after: Manifest) -> Iterator[IndexChange]:
    old = {f"{index.module}/{index.view}": index for index in before.indexes}
    new = {f"{index.module}/{index.view}": index for index in after.indexes}
    for name in sorted(old.keys() | new.keys()):
        first, second = item_files(old.get(name)), item_files(new.get(name))
        gone = living_items(store, [ref for key, ref in first.items() if key not in second])
        come = living_items(store, [ref for key, ref in second.items() if key not in first])
        yield IndexChange(name, old.get(name), new.get(name), tuple(sorted(come - gone)), tuple(sorted(gone - come)))


def item_files(index: Index | None) -> dict[str, ObjectRef]:
    return {shard.items_file.key: shard.items_file for shard in index.shards} if index else {}


def living_items(store: Store, files: list[ObjectRef]) -> set[str]:
    """Ids of the items that are alive in these item files."""
    found: set[str] = set()
    with TemporaryDirectory(prefix="samestyle-compare-") as folder:
        path = Path(folder) / "items.parquet"
        for ref in files:
            store.get_object(ref, path)
            for batch in pq.ParquetFile(path).iter_batches(columns=["item_id", "alive"]):
                found.update(pc.filter(batch.column("item_id"), batch.column("alive")).to_pylist())
    return found


def flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """The leaves of a tree by their dotted names."""
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        leaves |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return leaves


def differing(before: dict[str, Any], after: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    names = sorted(before.keys() | after.keys())
    return {name: (before.get(name), after.get(name)) for name in names if before.get(name) != after.get(name)}
