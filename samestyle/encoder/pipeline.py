"""What one worker does with contents: photos are fetched and decoded while others are encoded and written.

    contents -> fetch, decode (threads) -> groups -> forward (one thread, on a GPU two) -> the caller, who writes

The caller's thread moves rows from one stage to the next, and each stage has a bounded number of them under way, so
that a slow one holds up those before it and memory does not grow. Threads, because the libraries that do the work
(sockets, Pillow, OpenCV, ONNX Runtime) let others run meanwhile.
"""

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import NamedTuple, Protocol, TypeVar

import numpy as np

from samestyle.catalogue.fetch import FetchPolicy, fetch, is_remote
from samestyle.catalogue.images import DecodeLimits, decode_image, to_jpeg
from samestyle.encoder.contents import Content, Decode, Outcome, batches, prepared
from samestyle.encoder.crew import Crew, finished

STAGES = ("read", "fetch", "decode", "forward", "write")
# Batches that go to the encoder at once: it sorts their titles by length, so that less is filled up.
GROUP = 4
# Rows that a thread takes at once from a disk: handing over one at a time costs more than reading a small file.
HANDFUL = 8
DECODES = 1  # on a CPU: a core decodes ten times what it encodes, and a second thread takes turns with the first
# Threads at the encoder: on a GPU the second one prepares its group and sends it while the first one's is computed.
FORWARDS = {"cpu": 1, "cuda": 2}
# A fetch that takes less needs no others beside it: threads that read from a fast disk wait for each other, not for it.
QUICK_S = 0.001
THUMBNAIL = 240  # pixels a side

Item = TypeVar("Item")
Views = Mapping[str, np.ndarray]
Shrink = Callable[[np.ndarray], bytes]
Count = Callable[[int, int, Mapping[str, float]], None]


class Model(Protocol):
    """What a pipeline needs of an encoder; samestyle.encoder.runtime.Encoder is one."""

    @property
    def dim(self) -> int: ...

    @property
    def image_size(self) -> int: ...

    @property
    def views(self) -> Sequence[str]: ...

    def encode(
        self,
        titles: Sequence[str | None],
        images: Sequence[np.ndarray | None],
        views: Sequence[str] = ...,
        batch_size: int = ...,
    ) -> Views: ...


class Embedded(NamedTuple):
    """Contents that were encoded together. vectors: {view: (rows, dim) float32}, zero where there is none."""

    contents: list[Content]
    outcomes: list[Outcome]
    vectors: Views


class Busy:
    """Seconds that each stage was at work, divided by how many can be at once: of what has most there was least."""

    def __init__(self) -> None:
        self._seconds = dict.fromkeys(STAGES, 0.0)
        self._lock = threading.Lock()

    @contextmanager
    def timed(self, stage: str, places: int = 1) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            seconds = time.perf_counter() - started
            with self._lock:
                self._seconds[stage] += seconds / places

    def take(self) -> dict[str, float]:
        """What has come together since the last call."""
        with self._lock:
            taken, self._seconds = self._seconds, dict.fromkeys(STAGES, 0.0)
        return taken

    def reading(self, items: Iterable[Item]) -> Iterator[Item]:
        """The same items; waiting for them counts as `read`."""
        rest = iter(items)
        while True:
            with self.timed("read"):
                item = next(rest, None)
            if item is None:
                return
            yield item


class Need:
    """How many threads fetching needs: `most` where a server is asked, which may take its time from the first photo on;
    else `least`, and more the longer reading a file takes. `hire` is told.

    The mean begins at zero, so that one slow fetch among quick ones changes little.
    """

    def __init__(self, least: int, most: int, hire: Callable[[int], None]) -> None:
        self.least, self.most, self.hire, self.mean_s = least, most, hire, 0.0

    @property
    def threads(self) -> int:
        return min(self.most, int(self.least * (1 + self.mean_s / QUICK_S)))

    def begins(self, remote: bool) -> None:
        if remote:
            self.hire(self.most)

    def took(self, seconds: float) -> None:
        self.mean_s += (min(seconds, self.most * QUICK_S) - self.mean_s) / 16
        self.hire(self.threads)


@dataclass(frozen=True)
class Pipeline:
    """How a worker goes about it; small and picklable, so it travels in closures.

    fetches     photos on their way at once from servers and slow disks; each may hold policy.max_bytes
    decodes     photos decoded at once; DecodeLimits says what each may take
    batch_size  rows a forward pass
    threads     of ONNX Runtime, on the CPU
    thumbnails  whether outcomes get one
    device      `cpu`, or `cuda` for a GPU of the worker's
    precision   fp16, bf16 or fp32: of a GPU; the CPU has fp32
    """

    policy: FetchPolicy
    limits: DecodeLimits
    fetches: int = 16
    decodes: int = DECODES
    batch_size: int = 32
    threads: int = 1
    thumbnails: bool = False
    device: str = "cpu"
    precision: str = "fp16"

    def run(
        self, contents: Iterable[Content], model: Model, count: Count | None = None, decode: Decode | None = None
    ) -> Iterator[Embedded]:
        """All contents with their outcomes, in groups, as they become ready.

        `decode` replaces decode_image. count(rows, rejected, busy seconds by stage) is told of every group. Closing the
        iterator ends all threads; so does an error, which is raised here: SamestyleError of `decode`, what iterating
        over `contents` raises, what the model raises for every row of a group.
        """
        busy, size, forwards = Busy(), GROUP * self.batch_size, FORWARDS[self.device]
        decode = decode or partial(decode_image, limits=self.limits, size=model.image_size)
        prepare = partial(prepare_timed, decode=self._decode(decode, busy), shrink=self._shrink())
        forward = partial(encode_timed, model=model, batch_size=self.batch_size, busy=busy, places=forwards)
        with Crew("fetch", min(self.decodes, self.fetches)) as fetchers, Crew("forward", forwards) as encoders:
            need = Need(self.decodes, self.fetches, fetchers.hire)
            prepare = partial(prepare, fetch=self._fetch(busy, need), crew=fetchers)
            # Enough for a whole group to become ready while another one is encoded.
            under_way = size + HANDFUL * self.fetches
            handfuls = self._handfuls(busy.reading(contents), need)
            ready = chain.from_iterable(finished(prepare, handfuls, fetchers, under_way, len))
            # At the encoder are those that it works on, and the next one.
            for embedded in finished(forward, batches(ready, size), encoders, forwards + 1):
                with busy.timed("write"):
                    yield embedded
                if count:
                    rejected = sum(one.outcome == "rejected" for one in embedded.outcomes)
                    count(len(embedded.outcomes), rejected, busy.take())

    def _handfuls(self, contents: Iterable[Content], need: Need) -> Iterator[list[Content]]:
        """What a thread takes at once: of what a server is asked for one, or a slow one would hold up the others."""
        handful: list[Content] = []
        for content in contents:
            handful.append(content)
            remote = self._is_remote(content)
            need.begins(remote)
            if len(handful) == HANDFUL or remote:
                yield handful
                handful = []
        if handful:
            yield handful

    def _is_remote(self, content: Content) -> bool:
        return not content.image and content.image_uri is not None and is_remote(content.image_uri, self.policy)

    def _fetch(self, busy: Busy, need: Need) -> Callable[[str], bytes]:
        def timed_fetch(uri: str) -> bytes:
            started = time.perf_counter()
            try:
                with busy.timed("fetch", self.fetches):
                    return fetch(uri, self.policy)
            finally:
                need.took(time.perf_counter() - started)

        return timed_fetch

    def _shrink(self) -> Shrink | None:
        return partial(to_jpeg, size=THUMBNAIL) if self.thumbnails else None

    def _decode(self, decode: Decode, busy: Busy) -> Decode:
        places = threading.BoundedSemaphore(self.decodes)

        def timed_decode(data: bytes) -> np.ndarray:
            with places, busy.timed("decode", self.decodes):
                return decode(data)

        return timed_decode


def prepare_timed(
    contents: list[Content], fetch: Callable[[str], bytes], decode: Decode, shrink: Shrink | None, crew: Crew
) -> list[tuple[Content, Outcome]]:
    """Bytes of a photo have served when it is decoded; they are dropped. Ends early once nobody waits for it."""
    made = []
    for content in contents:
        if crew.closed:
            break
        outcome = prepared(content, fetch, decode)
        if shrink and outcome.pixels is not None:
            outcome.thumbnail = shrink(outcome.pixels)
        content.image = None
        made.append((content, outcome))
    return made


def encode_timed(
    rows: list[tuple[Content, Outcome]], model: Model, batch_size: int, busy: Busy, places: int
) -> Embedded:
    with busy.timed("forward", places):
        contents, outcomes = (list(part) for part in zip(*rows, strict=True))
        return Embedded(contents, outcomes, encode(contents, outcomes, model, batch_size))


def in_order(numbered: Iterable[tuple[int, Item]]) -> Iterator[Item]:
    """Items by their numbers, 0, 1, ..., each of which comes once; those that are early wait."""
    early: dict[int, Item] = {}
    following = 0
    for number, item in numbered:
        early[number] = item
        while following in early:
            yield early.pop(following)
            following += 1


# --- forward


def encode(contents: Sequence[Content], outcomes: Sequence[Outcome], model: Model, batch_size: int) -> Views:
    """{view: (rows, dim) float32}, zero where there is none. Rows that the model cannot encode become rejected.

    Raises what the model raises where it does so for each of several rows: that is no row's fault.
    """
    vectors = {view: np.zeros((len(contents), model.dim), np.float32) for view in model.views}
    wanted = [row for row, outcome in enumerate(outcomes) if outcome.wanted]
    errors: dict[int, Exception] = {}

    def forward(rows: list[int]) -> Views:
        titles, images = [contents[row].title for row in rows], [outcomes[row].pixels for row in rows]
        return model.encode(titles, images, batch_size=batch_size)

    for rows, found in attempts(wanted, forward):
        if isinstance(found, Exception):
            errors[rows[0]] = found
            continue
        for view, values in found.items():
            vectors[view][rows] = values
    if len(errors) == len(wanted) > 1:
        raise errors[wanted[-1]]
    for row, error in errors.items():
        outcomes[row].reject("not_encodable", f"{type(error).__name__}: {error}", transient=True)
    reject_without_direction(vectors, contents, outcomes)
    return vectors


def attempts(rows: list[int], work: Callable[[list[int]], Views]) -> Iterator[tuple[list[int], Views | Exception]]:
    """What `work` makes of the rows, halved where it fails, down to a row alone with its error.

    So a row that cannot be encoded costs itself, and what was too much for the memory gets through in parts.
    """
    if not rows:
        return
    found: Views | Exception
    try:
        found = work(rows)
    except Exception as error:
        found = error
    if isinstance(found, Exception) and len(rows) > 1:
        middle = len(rows) // 2
        yield from attempts(rows[:middle], work)
        yield from attempts(rows[middle:], work)
    else:
        yield rows, found


def reject_without_direction(vectors: Views, contents: Sequence[Content], outcomes: Sequence[Outcome]) -> None:
    """A row has a vector of what it has, a photo, a title, or it is rejected: which views a row of the table has, is
    known from its outcome. Neither NaN nor zero may get into an index. Pixels have served and are dropped.
    """
    has = {
        "image": np.array([outcome.pixels is not None for outcome in outcomes], bool),
        "text": np.array([content.title is not None for content in contents], bool),
        "fused": np.ones(len(contents), bool),
    }
    finite = np.all([np.isfinite(values).all(axis=1) for values in vectors.values()], axis=0)
    whole = np.all([values.any(axis=1) | ~has[view] for view, values in vectors.items()], axis=0)
    for row, outcome in enumerate(outcomes):
        outcome.pixels = None
        if outcome.wanted and not (finite[row] and whole[row]):
            outcome.reject("not_encodable", "the encoder gave it no direction")
    rejected = [outcome.outcome == "rejected" for outcome in outcomes]
    for values in vectors.values():
        values[~finite | rejected] = 0
