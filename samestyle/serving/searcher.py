"""Open a release and search it: numpy, hnswlib and pyarrow only.

What is downloaded is verified, loaded and tried out before it serves; a failure leaves the old one serving.
"""

import logging
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.compute as pc

from samestyle.errors import SamestyleError, UsageError
from samestyle.release.manifest import BANDS, Band, Index, Manifest
from samestyle.release.publish import current_release, load_manifest, read_pointer
from samestyle.release.store import Store, open_store
from samestyle.serving.cache import Cache
from samestyle.serving.shards import Hit, LoadedShard, Wish

logger = logging.getLogger(__name__)

MAX_K = 10_000


@dataclass(frozen=True)
class Refreshed:
    """What a refresh did: the release that serves now, whether it is new, and what failed, if anything."""

    release_id: str
    switched: bool
    error: str | None = None


@dataclass(frozen=True)
class Generation:
    """One release in memory: the shards of each view."""

    manifest: Manifest
    views: dict[str, list[LoadedShard]]

    @classmethod
    def load(cls, cache: Cache, manifest: Manifest, module: str, shards: Collection[int] | None) -> "Generation":
        """Load a module. Raises UsageError for an unknown module or shard, IntegrityError for damage."""
        indexes = [index for index in manifest.indexes if index.module == module]
        if not indexes:
            there = ", ".join(manifest.modules())
            raise UsageError(f"release {manifest.release_id} has no module {module}: it has {there}")
        return cls(manifest, {index.view: load_shards(cache, index, shards) for index in indexes})


def load_shards(cache: Cache, index: Index, wanted: Collection[int] | None) -> list[LoadedShard]:
    there = {shard.shard: shard for shard in index.shards}
    numbers = sorted(there if wanted is None else set(wanted))
    if unknown := [number for number in numbers if number not in there]:
        raise UsageError(f"{index.module}/{index.view} has no shards {unknown}: it has {sorted(there)}")
    return [LoadedShard.load(cache, index, there[number]) for number in numbers]


class Searcher:
    """A module of a release, in memory. Searches may go on in other threads while `refresh` switches."""

    def __init__(
        self,
        store: Store,
        module: str,
        cache: Cache,
        channel: str,
        shards: Collection[int] | None,
        release_id: str | None,
    ) -> None:
        self.store, self.module, self.cache, self.channel = store, module, cache, channel
        self.shards = shards
        self.pinned = release_id
        self._generation = self._load()

    @property
    def manifest(self) -> Manifest:
        """Of the release that serves."""
        return self._generation.manifest

    @property
    def release_id(self) -> str:
        return self.manifest.release_id

    def views(self) -> list[str]:
        """The views that can be searched."""
        return list(self._generation.views)

    def search(
        self,
        vectors: np.ndarray,
        k: int,
        view: str = "fused",
        where: pc.Expression | None = None,
        exclude_items: Collection[str] = (),
        exclude_suppliers: Collection[str] = (),
        items_per_node: int = 3,
    ) -> list[list[Hit]]:
        """The k nearest items of each vector, best first, equal scores by item_id; fewer if there are fewer.

        vectors: (q, dim) or (dim,) float32, of any length but zero. where: over the item file, for example
        `pc.field("attributes", "price") < 20`. items_per_node: most items that share one photo or title.
        Raises UsageError for a wrong argument.
        """
        wish = Wish(check_k(k), where, as_set(exclude_items), as_set(exclude_suppliers), max(1, items_per_node))
        return self._search(self._generation, view, vectors, wish)

    def _search(self, generation: Generation, view: str, vectors: np.ndarray, wish: Wish) -> list[list[Hit]]:
        index = generation.manifest.index(self.module, view)
        queries = unit_queries(vectors, index.dim)
        answers = [shard.search(queries, wish) for shard in generation.views[view]]
        return [merge([answer[q] for answer in answers], wish) for q in range(len(queries))]

    def vector_of(self, item_id: str, view: str = "fused") -> np.ndarray:
        """The (dim,) float32 vector of an item. Raises UsageError if the release does not have it."""
        return self._place(self._generation, item_id, view)[0]

    def neighbours_of(
        self,
        item_id: str,
        band: Band = "same_style",
        k: int = 10,
        view: str = "fused",
        where: pc.Expression | None = None,
        exclude_suppliers: Collection[str] = (),
    ) -> list[Hit]:
        """The k nearest of a band of this item's neighbours; the manifest's thresholds tell the bands.

        Raises UsageError for an unknown item or band.
        """
        if band not in BANDS:
            raise UsageError(f"unknown band {band!r}: choose from {', '.join(BANDS)}")
        generation = self._generation
        thresholds = generation.manifest.index(self.module, view).thresholds
        lowest = thresholds.lowest(band)
        vector, supplier = self._place(generation, item_id, view)
        fetch = max(50, 4 * check_k(k))
        while True:
            wish = Wish(fetch, where, frozenset([item_id]), as_set(exclude_suppliers), fetch)
            hits = self._search(generation, view, vector, wish)[0]
            own = [hit for hit in hits if thresholds.band(hit.score, is_same(supplier, hit.supplier_id)) == band]
            if len(own) >= k or len(hits) < fetch or hits[-1].score < lowest or fetch >= MAX_K:
                return own[:k]
            fetch = min(4 * fetch, MAX_K)

    def _place(self, generation: Generation, item_id: str, view: str) -> tuple[np.ndarray, str | None]:
        generation.manifest.index(self.module, view)
        for shard in generation.views[view]:
            row = shard.items.row_of(item_id)
            if row is not None:
                vector = np.asarray(shard.graph.get_items([shard.items.labels[row]])[0], dtype=np.float32)
                return vector, shard.items.table["supplier_id"][row].as_py()
        raise UsageError(f"item {item_id!r} is not in {self.module}/{view} of release {generation.manifest.release_id}")

    def refresh(self) -> Refreshed:
        """Switch to what the channel names now, after loading and trying it beside the old release.

        Never raises for a broken release or store: the old one keeps serving, and the answer says why.
        """
        serving = self.release_id
        try:
            if self.pinned or self._is_current():
                return Refreshed(serving, False)
            self._generation = self._load()
        except (SamestyleError, OSError, MemoryError, RuntimeError) as error:
            logger.error("release %s keeps serving %s: %s", serving, self.module, error)
            return Refreshed(serving, False, str(error))
        return Refreshed(self.release_id, True)

    def _is_current(self) -> bool:
        pointer = read_pointer(self.store, self.channel)
        if pointer is None:
            raise UsageError(f"channel {self.channel} of {self.store.uri} is gone")
        return pointer.release_id == self.release_id

    def _load(self) -> Generation:
        if self.pinned:
            manifest = load_manifest(self.store, self.pinned)
        else:
            found = current_release(self.store, self.channel)
            if found is None:
                raise UsageError(f"channel {self.channel} of {self.store.uri} names no release: publish one first")
            manifest = found[1]
        return Generation.load(self.cache, manifest, self.module, self.shards)


def open_release(
    store_uri: str | Path,
    module: str,
    cache_dir: str | Path,
    channel: str = "current",
    shards: Sequence[int] | None = None,
    release_id: str | None = None,
) -> Searcher:
    """Open a module of the release that a channel names, or of a named one; all its shards, or only some.

    Raises UsageError where there is no such release, module or shard, IntegrityError where it is damaged.
    """
    store = open_store(store_uri)
    return Searcher(store, module, Cache(store, cache_dir), channel, shards, release_id)


def check_k(k: int) -> int:
    if not 1 <= k <= MAX_K:
        raise UsageError(f"k is {k}, expected 1 to {MAX_K}")
    return k


def as_set(names: Collection[str]) -> frozenset[str]:
    if isinstance(names, str):
        raise UsageError(f"{names!r} is one string, expected a list of them")
    return frozenset(names)


def is_same(supplier: str | None, other: str | None) -> bool:
    """Unknown suppliers are nobody's."""
    return supplier is not None and supplier == other


def unit_queries(vectors: np.ndarray, dim: int) -> np.ndarray:
    """(q, dim) float32 of length 1. Raises UsageError for another shape or a vector without a direction."""
    queries = np.atleast_2d(np.asarray(vectors, dtype=np.float32))
    if queries.ndim != 2 or queries.shape[1] != dim:
        raise UsageError(f"query vectors have the shape {np.shape(vectors)}, expected (q, {dim})")
    lengths = np.linalg.norm(queries, axis=1, keepdims=True)
    if not (np.isfinite(lengths) & (lengths > 0)).all():
        raise UsageError("a query vector is zero or not finite: it has no direction to search in")
    return queries / lengths


def merge(answers: list[list[Hit]], wish: Wish) -> list[Hit]:
    """The best k of all shards; a node that stands in several shards counts as one."""
    seen: Counter[str] = Counter()
    best: list[Hit] = []
    for hit in sorted((hit for answer in answers for hit in answer), key=lambda hit: (-hit.score, hit.item_id)):
        if len(best) == wish.k:
            break
        seen[hit.node_key] += 1
        if seen[hit.node_key] <= wish.items_per_node:
            best.append(hit)
    return best
