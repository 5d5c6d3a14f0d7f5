"""The release that serves now, as the pages and the API see it: all modules, display files, the query encoder."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import BoundedSemaphore, Event, Lock
from typing import TypeVar

import pyarrow.compute as pc

from samestyle.catalogue.images import DecodeLimits
from samestyle.catalogue.titles import normalise_title
from samestyle.errors import SamestyleError, UsageError
from samestyle.release.manifest import Band, Manifest
from samestyle.release.publish import current_release
from samestyle.release.store import open_store
from samestyle.serving import Hit, Searcher
from samestyle.serving.cache import Cache
from samestyle.serving.display import Card, Display
from samestyle.serving.query import QueryEncoder

logger = logging.getLogger(__name__)

DEFAULT_MODULE = "search"
# A stranger's photo may take this much: 25 bytes of memory a pixel at worst, for each that is decoded at once.
UPLOAD_LIMITS = DecodeLimits(max_pixels=25_000_000, max_side=10_000)
ENCODED_AT_ONCE = 2
ENCODING_PATIENCE_S = 10.0
# A release that is switched to in the middle of a request is asked again.
ATTEMPTS = 3
# A supplier's offers that are compared with each other for one page.
OFFERS_COMPARED = 300
COPIES = 50
T = TypeVar("T")


class NotThereError(SamestyleError):
    """The release that serves has no such item, supplier or module."""


class QueryError(SamestyleError):
    """There is nothing to search with."""


class BusyError(SamestyleError):
    """Too many photos and words wait to be encoded."""


@dataclass(frozen=True)
class Duplicates:
    """A supplier's offers that are nearly the same, as groups, the largest first; `compared` of them were looked at."""

    supplier_id: str
    groups: list[list[Hit]]
    compared: int
    complete: bool


class Aisle:
    """One module of one release, for one request."""

    def __init__(self, shop: "Shop", searcher: Searcher) -> None:
        self.shop, self.searcher = shop, searcher
        self.manifest = searcher.manifest
        views = searcher.views()
        self.view = "fused" if "fused" in views else views[0]

    @property
    def module(self) -> str:
        return self.searcher.module

    def cards(self, hits: list[Hit]) -> dict[str, Card | None]:
        return self.shop.display(self.manifest).cards([hit.item_id for hit in hits])

    def item(self, item_id: str) -> Hit:
        """Raises NotThereError."""
        try:
            return self.searcher.item(item_id, self.view)
        except UsageError as error:
            raise NotThereError(f"There is no item {item_id} in the {self.module} index of this release.") from error

    def sample(self, k: int) -> list[Hit]:
        return self.searcher.sample(k, self.view)

    def search(self, photo: bytes | None, words: str | None, k: int) -> tuple[str, list[Hit]]:
        """The view that was searched, and what it found.

        Raises ImageError for a photo that cannot be read, QueryError where there is neither photo nor words.
        """
        if not photo and not normalise_title(words):
            raise QueryError("There is nothing to search with: give a photo, words, or both.")
        asked = "image" if photo and not words else "text" if words and not photo else self.view
        view = asked if asked in self.searcher.views() else self.view
        with self.shop.encoding():
            vector = self.shop.encoder(self.searcher).encode(photo, words)
        return view, self.searcher.search(vector, k, view)[0]

    def alike(self, item_id: str, band: Band, k: int) -> list[Hit]:
        """Raises NotThereError."""
        self.item(item_id)
        return self.searcher.neighbours_of(item_id, band, k, self.view)

    def duplicates(self, supplier_id: str) -> Duplicates:
        """Raises NotThereError for a supplier without offers."""
        own = pc.field("supplier_id") == supplier_id
        offers = {hit.item_id: hit for hit in self.searcher.sample(OFFERS_COMPARED + 1, self.view, own)}
        if not offers:
            raise NotThereError(f"There are no offers of {supplier_id} in the {self.module} index of this release.")
        compared = list(offers)[:OFFERS_COMPARED]
        groups: dict[str, list[str]] = {}
        for item_id in compared:
            copies = self.searcher.neighbours_of(item_id, "duplicate", COPIES, self.view, own)
            offers |= {hit.item_id: hit for hit in copies}
            join(groups, [item_id, *(hit.item_id for hit in copies)])
        found = {id(group): group for group in groups.values() if len(group) > 1}
        ordered = sorted((sorted(group) for group in found.values()), key=lambda group: (-len(group), group))
        complete = len(compared) == len(offers)
        return Duplicates(supplier_id, [[offers[name] for name in group] for group in ordered], len(compared), complete)


def join(groups: dict[str, list[str]], names: list[str]) -> None:
    """Make one group of all the groups that these names are in."""
    parts = {id(part): part for part in (groups.get(name, [name]) for name in names)}
    whole = list(dict.fromkeys(name for part in parts.values() for name in part))
    groups |= dict.fromkeys(whole, whole)


class Shop:
    """Follows a channel. Modules are opened when they are first asked for; requests go on while `refresh` switches."""

    def __init__(self, store_uri: str | Path, cache_dir: str | Path, channel: str = "current") -> None:
        """Raises UsageError where the channel names no release, IntegrityError where that is damaged."""
        self.store, self.channel = open_store(store_uri), channel
        self.cache = Cache(self.store, cache_dir)
        self.failure: str | None = None
        self._turn = Lock()
        self._searchers: dict[str, Searcher] = {}
        self._displays: dict[str, Display] = {}
        self._encoders: dict[str, QueryEncoder] = {}
        self._encoding = BoundedSemaphore(ENCODED_AT_ONCE)
        manifest = self._manifest()
        self.default = DEFAULT_MODULE if DEFAULT_MODULE in manifest.modules() else manifest.modules()[0]
        self.display(manifest)
        self._open(self.default)

    def _manifest(self) -> Manifest:
        found = current_release(self.store, self.channel)
        if found is None:
            raise UsageError(
                f"channel {self.channel} of {self.store.uri} names no release yet: run the nightly job first"
            )
        return found[1]

    def _open(self, module: str) -> Searcher:
        found = self._searchers.get(module)
        if found is None:
            with self._turn:
                found = self._searchers.get(module)
                found = found or Searcher(self.store, module, self.cache, self.channel, None, None, None)
                self._searchers[module] = found
        return found

    @property
    def manifest(self) -> Manifest:
        """Of the release that serves."""
        return self._searchers[self.default].manifest

    def modules(self) -> list[str]:
        return self.manifest.modules()

    def read(self, module: str | None, work: Callable[[Aisle], T]) -> T:
        """What `work` finds in a module of one release, whatever is switched meanwhile. Raises NotThereError."""
        name = module or self.default
        if name not in self.modules():
            raise NotThereError(f"There is no index {name} in this release: it has {', '.join(self.modules())}.")
        searcher = self._open(name)
        for _ in range(ATTEMPTS - 1):
            aisle = Aisle(self, searcher)
            try:
                found = work(aisle)
            except SamestyleError:
                if searcher.manifest is aisle.manifest:
                    raise
            else:
                if searcher.manifest is aisle.manifest:
                    return found
        return work(Aisle(self, searcher))

    def display(self, manifest: Manifest) -> Display:
        """Photos and titles of a release; none of them where they are damaged, which is no reason not to search."""
        found = self._displays.get(manifest.release_id)
        if found is None:
            with self._turn:  # one thread loads them, those that have theirs go on
                found = self._displays.get(manifest.release_id) or self._load_display(manifest)
                self._displays[manifest.release_id] = found
        return found

    def _load_display(self, manifest: Manifest) -> Display:
        try:
            return Display.load(self.cache, manifest)
        except SamestyleError as error:
            logger.error("release %s is shown without photos and titles: %s", manifest.release_id, error)
            return Display()

    def encoder(self, searcher: Searcher) -> QueryEncoder:
        """The query encoder of the release that `searcher` serves. Raises IntegrityError."""
        encoder_id = searcher.manifest.encoder.encoder_id
        found = self._encoders.get(encoder_id)
        if found is None:
            with self._turn:
                found = self._encoders.get(encoder_id) or QueryEncoder.of(searcher, limits=UPLOAD_LIMITS)
                self._encoders[encoder_id] = found
        return found

    @contextmanager
    def encoding(self) -> Iterator[None]:
        """Few at once: each takes a core, and the memory of a decoded photo. Raises BusyError."""
        if not self._encoding.acquire(timeout=ENCODING_PATIENCE_S):
            raise BusyError("Too many searches are being worked on: try again in a moment.")
        try:
            yield
        finally:
            self._encoding.release()

    def warm(self) -> None:
        """Load the query encoder before it is asked for; where that fails, its searches will say so."""
        try:
            self.encoder(self._searchers[self.default])
        except (SamestyleError, ImportError) as error:
            logger.error("search by photo and words does not work: %s", error)

    def refresh(self) -> None:
        """Follow the channel and the denylist. Never raises: what serves keeps serving, `failure` says why."""
        try:
            self.display(self._manifest())  # before the switch: no request is to wait for it
        except (SamestyleError, OSError) as error:
            logger.error("the release that channel %s names cannot be shown: %s", self.channel, error)
        failures = [done.error for searcher in list(self._searchers.values()) if (done := searcher.refresh()).error]
        self.failure = failures[0] if failures else None
        self._forget()
        self.warm()

    def _forget(self) -> None:
        """Drop what the served releases do not need."""
        with self._turn:
            modules = self.manifest.modules()
            self._searchers = {name: kept for name, kept in self._searchers.items() if name in modules}
            serving = [searcher.manifest for searcher in self._searchers.values()]
            releases, encoders = {m.release_id for m in serving}, {m.encoder.encoder_id for m in serving}
            self._displays = {name: kept for name, kept in self._displays.items() if name in releases}
            self._encoders = {name: kept for name, kept in self._encoders.items() if name in encoders}

    def follow(self, seconds: float, stop: Event) -> None:
        """Refresh every so many seconds until `stop` is set."""
        while not stop.wait(seconds):
            self.refresh()
