"""Open a release and search it: numpy, hnswlib and pyarrow only.

What is downloaded is verified, loaded and tried out before it serves; a failure leaves the old one serving.
"""

import logging
import math
import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

import numpy as np
import pyarrow.compute as pc

from samestyle.errors import IntegrityError, SamestyleError, UsageError
from samestyle.index.nodes import TIE
from samestyle.release.denylist import read_denylist
from samestyle.release.manifest import BANDS, Band, Index, Manifest
from samestyle.release.publish import current_release, known_digest, load_manifest, read_pointer
from samestyle.release.store import Store, open_store
from samestyle.serving.cache import Cache
from samestyle.serving.merge import MAX_K, search_plainly, search_shards
from samestyle.serving.shards import Hit, LoadedGraph, LoadedShard, Wish

logger = logging.getLogger(__name__)

# A reader looks so often, in seconds, for files of the cache that are not needed any more.
TIDY_S = 3600.0


@dataclass(frozen=True)
class Refreshed:
    """What a refresh did: the release that serves now, whether it is new, and what failed, if anything."""

    release_id: str
    switched: bool
    error: str | None = None


@dataclass(frozen=True)
class Part:
    """One of `parts` even parts of a module's shards, those whose number leaves `number` (0 to parts - 1) over.

    Numbers of shards come and go with the releases; a part stays one.
    """

    number: int
    parts: int

    def __post_init__(self) -> None:
        if not 0 <= self.number < self.parts:
            raise UsageError(f"part {self.number} of {self.parts}: expected 0 to {self.parts - 1}")

    def of(self, numbers: Iterable[int]) -> list[int]:
        return [number for number in numbers if number % self.parts == self.number]


Choice = Collection[int] | Part | None
# Graphs in memory by view and sha256. Views never share one: each marks its own dead nodes.
Graphs = dict[tuple[str, str], LoadedGraph]


@dataclass(frozen=True)
class Generation:
    """One release in memory: the shards of each view, and the items that are hidden."""

    manifest: Manifest
    indexes: dict[str, Index]
    views: dict[str, list[LoadedShard]]
    denied: frozenset[str]

    @classmethod
    def load(cls, cache: Cache, manifest: Manifest, module: str, choice: Choice, there: Graphs) -> "Generation":
        """Load a module; `there`: graphs in memory.

        Raises UsageError for an unknown module or shard, IntegrityError for damage.
        """
        indexes = [index for index in manifest.indexes if index.module == module]
        if not indexes:
            known = ", ".join(manifest.modules())
            raise UsageError(f"release {manifest.release_id} has no module {module}: it has {known}")
        views = {index.view: load_shards(cache, index, choice, there) for index in indexes}
        return cls(manifest, {index.view: index for index in indexes}, views, frozenset())

    def without(self, denied: frozenset[str]) -> "Generation":
        """The same, but for these items and no others."""
        if denied == self.denied:
            return self
        views = {view: [shard.without(denied) for shard in shards] for view, shards in self.views.items()}
        return Generation(self.manifest, self.indexes, views, denied)

    def graphs(self) -> Graphs:
        return {(view, shard.loaded.sha256): shard.loaded for view, shards in self.views.items() for shard in shards}

    def serve(self) -> None:
        for shards in self.views.values():
            for shard in shards:
                shard.serve()


def load_shards(cache: Cache, index: Index, choice: Choice, there: Graphs) -> list[LoadedShard]:
    shards = {shard.shard: shard for shard in index.shards}
    numbers = (
        choice.of(sorted(shards)) if isinstance(choice, Part) else sorted(shards if choice is None else set(choice))
    )
    if unknown := [number for number in numbers if number not in shards]:
        raise UsageError(f"{index.module}/{index.view} has no shards {unknown}: it has {sorted(shards)}")
    return [
        LoadedShard.load(cache, index, shards[number], there.get((index.view, shards[number].graph.sha256)))
        for number in numbers
    ]


class Searcher:
    """A module of a release, in memory. Searches may go on in other threads while `refresh` switches."""

    def __init__(
        self,
        store: Store,
        module: str,
        cache: Cache,
        channel: str,
        shards: Choice,
        release_id: str | None,
        encoder_id: str | None,
    ) -> None:
        self.store, self.module, self.cache, self.channel = store, module, cache, channel
        self.shards, self.encoder_id = shards, encoder_id
        self.pinned = release_id
        self._turn = Lock()
        self._generation = self._load({}).without(frozenset(read_denylist(store).items))
        self._generation.serve()
        self._tidy()

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
        items_per_supplier: int | None = None,
    ) -> list[list[Hit]]:
        """The k nearest items of each vector, best first, equal scores by item_id; fewer if there are fewer.

        vectors: (q, dim) or (dim,) float32, of any length but zero. where: over the item file, for example
        `pc.field("attributes", "price") < 20`. items_per_node: most items that share one photo or title;
        items_per_supplier: most items of one supplier. Raises UsageError for a wrong argument.
        """
        generation, cap = self._generation, max(1, items_per_node)
        if where is None and not exclude_items and not exclude_suppliers and items_per_supplier is None:
            hits = search_plainly(generation.views.get(view, ()), vectors, k, cap)
            if hits is not None:
                return [hits]
        suppliers = None if items_per_supplier is None else max(1, items_per_supplier)
        wish = Wish(check_k(k), where, as_set(exclude_items), as_set(exclude_suppliers), cap, suppliers)
        return self._search(generation, view, vectors, wish)

    def _search(self, generation: Generation, view: str, vectors: np.ndarray, wish: Wish) -> list[list[Hit]]:
        index = generation.indexes.get(view) or generation.manifest.index(self.module, view)
        return search_shards(generation.views[view], unit_queries(vectors, index.dim), wish)

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

    def item(self, item_id: str, view: str = "fused") -> Hit:
        """An item by its id, with a score of 1. Raises UsageError if the release does not have it."""
        shard, row = self._locate(self._generation, item_id, view)
        return Hit(item_id, 1.0, shard.items, row)

    def sample(self, k: int, view: str = "fused", where: pc.Expression | None = None) -> list[Hit]:
        """k items, evenly spread over the shards, with a score of 0; all where there are fewer.

        The same ones as long as the same release serves.
        """
        generation = self._generation
        generation.manifest.index(self.module, view)
        passing = [(shard.items, shard.items.passing(where).rows) for shard in generation.views[view]]
        ends = np.cumsum([len(rows) for _, rows in passing])
        total = int(ends[-1]) if len(ends) else 0
        hits = []
        for place in np.linspace(0, total - 1, num=min(check_k(k), total), dtype=np.int64).tolist():
            number = int(np.searchsorted(ends, place, side="right"))
            items, rows = passing[number]
            row = int(rows[place - int(ends[number])])
            hits.append(Hit(items.ids[row], 0.0, items, row))
        return hits

    def _place(self, generation: Generation, item_id: str, view: str) -> tuple[np.ndarray, str | None]:
        shard, row = self._locate(generation, item_id, view)
        vector = np.asarray(shard.graph.get_items([shard.items.labels[row]])[0], dtype=np.float32)
        return vector, shard.items.suppliers[row]

    def _locate(self, generation: Generation, item_id: str, view: str) -> tuple[LoadedShard, int]:
        generation.manifest.index(self.module, view)
        for shard in generation.views[view]:
            row = shard.items.row_of(item_id)
            if row is not None:
                return shard, row
        raise UsageError(f"item {item_id!r} is not in {self.module}/{view} of release {generation.manifest.release_id}")

    def refresh(self) -> Refreshed:
        """Hide what is denied now, and switch to what the channel names, once that is loaded and tried beside the old.

        Never raises for a broken release or store: the old one keeps serving, and the answer says why.
        """
        with self._turn:
            before = self._generation
            try:
                denied = frozenset(read_denylist(self.store).items)
                self._switch(before.without(denied))
                if not self.pinned and not self._is_current():
                    self._switch(self._load(self._generation.graphs()).without(denied))
            except (SamestyleError, OSError, MemoryError, RuntimeError) as error:
                logger.error("release %s keeps serving %s: %s", self.release_id, self.module, error)
                return Refreshed(self.release_id, False, str(error))
            switched = self.manifest is not before.manifest
            if switched or time.monotonic() - self._tidied > TIDY_S:
                self._tidy()
            return Refreshed(self.release_id, switched)

    def _tidy(self) -> None:
        """Of what lies in the cache, keep what serves and what a rollback would go to."""
        self._tidied = time.monotonic()
        try:
            pointer = None if self.pinned else read_pointer(self.store, self.channel)
            before = [pointer.previous] if pointer and pointer.previous else []
            removed = self.cache.tidy([self.manifest, *(load_manifest(self.store, name) for name in before)])
            logger.info("removed %d files from the cache %s", removed, self.cache.folder)
        except (SamestyleError, OSError) as error:  # it is as large as it was
            logger.warning("the cache %s was not tidied: %s", self.cache.folder, error)

    def _switch(self, generation: Generation) -> None:
        if generation is not self._generation:
            self._generation = generation
            generation.serve()

    def _is_current(self) -> bool:
        pointer = read_pointer(self.store, self.channel)
        if pointer is None:
            raise UsageError(f"channel {self.channel} of {self.store.uri} is gone")
        return pointer.release_id == self.release_id

    def _load(self, there: Graphs) -> Generation:
        if self.pinned:
            manifest = load_manifest(self.store, self.pinned, known_digest(self.store, self.pinned))
        else:
            found = current_release(self.store, self.channel)
            if found is None:
                raise UsageError(f"channel {self.channel} of {self.store.uri} names no release: publish one first")
            manifest = found[1]
        if self.encoder_id not in (None, manifest.encoder.encoder_id):
            raise IntegrityError(
                f"release {manifest.release_id} was made with encoder {manifest.encoder.encoder_id}, this reader "
                f"encodes with {self.encoder_id}: its vectors do not fit; give it the release's own encoder"
            )
        with self.cache.in_use():
            return Generation.load(self.cache, manifest, self.module, self.shards, there)


def open_release(
    store_uri: str | Path,
    module: str,
    cache_dir: str | Path,
    channel: str = "current",
    shards: Sequence[int] | Part | None = None,
    release_id: str | None = None,
    encoder_id: str | None = None,
) -> Searcher:
    """Open a module of the release that a channel names, or of a named one; all its shards, or only some.

    encoder_id: the encoder that this reader's queries are made with; a release of another one is refused, and so not
    switched to. Raises UsageError where there is no such release, module or shard, IntegrityError where it is damaged
    or does not fit.
    """
    store = open_store(store_uri)
    return Searcher(store, module, Cache(store, cache_dir), channel, shards, release_id, encoder_id)


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
    queries = np.asarray(vectors, dtype=np.float32)
    if queries.shape == (dim,):  # one query, as most are: each call of numpy counts
        length = math.sqrt(queries.dot(queries))
        if abs(length - 1) < TIE / 2:  # as the encoder's are
            return queries[None]
        if 0 < length < math.inf:
            return (queries / np.float32(length))[None]
    queries = np.atleast_2d(queries)
    if queries.ndim != 2 or queries.shape[1] != dim:
        raise UsageError(f"query vectors have the shape {np.shape(vectors)}, expected (q, {dim})")
    lengths = np.sqrt(np.einsum("ij,ij->i", queries, queries))[:, None]
    if not (np.isfinite(lengths) & (lengths > 0)).all():
        raise UsageError("a query vector is zero or not finite: it has no direction to search in")
    return queries / lengths
