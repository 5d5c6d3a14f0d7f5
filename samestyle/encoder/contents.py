"""A content, title and photo as they are, made ready for the encoder; a photo that cannot be had costs one row."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np

from samestyle.catalogue.fetch import FetchPolicy, fetch
from samestyle.catalogue.images import DecodeLimits, decode_image, image_digest
from samestyle.catalogue.titles import normalise_title
from samestyle.errors import ImageError, SamestyleError

FETCHES = 8  # photos on their way at once, a worker
Row = TypeVar("Row")
Fetch = Callable[[str], bytes]
Decode = Callable[[bytes], np.ndarray]  # to (size, size, 3) uint8 RGB; raises ImageError


@dataclass(slots=True)
class Content:
    """What is to be embedded. `known_digest`: sha256 of the photo's bytes that are embedded already.

    `key` is whatever the caller knows it by.
    """

    title: str | None
    image: bytes | None
    image_uri: str | None
    known_digest: str | None = None
    key: object = None


@dataclass(slots=True)
class Outcome:
    """What became of a content.

    pixels: the photo as the encoder takes it, until it has been encoded. thumbnail: a JPEG of it, where one is wanted.
    """

    outcome: str = "embedded"
    reason: str | None = None
    detail: str | None = None
    transient: bool = False
    image_digest: str | None = None
    pixels: np.ndarray | None = None
    thumbnail: bytes | None = None

    @property
    def wanted(self) -> bool:
        """Whether the encoder is to see it."""
        return self.outcome in ("embedded", "degraded")

    def reject(self, reason: str, error: object = "", transient: bool = False) -> None:
        self.outcome, self.reason, self.transient = "rejected", reason, transient
        self.pixels = self.thumbnail = None
        self.detail = normalise_title(str(error), 200)


def batches(rows: Iterable[Row], size: int) -> Iterator[list[Row]]:
    batch: list[Row] = []
    for row in rows:
        batch.append(row)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def prepare(content: Content, policy: FetchPolicy, limits: DecodeLimits, size: int) -> Outcome:
    """Fetch and decode the photo. A broken one costs the item its photo, or, without a title, its place."""
    return prepared(content, partial(fetch, policy=policy), partial(decode_image, limits=limits, size=size))


def prepared(content: Content, fetch: Fetch, decode: Decode) -> Outcome:
    """The same with other functions. Raises SamestyleError where they raise one that is no ImageError."""
    outcome = Outcome()
    if not content.image and content.image_uri is None:
        if content.title is None:
            outcome.reject("nothing_to_embed")
        return outcome
    try:
        data = content.image or fetch(content.image_uri or "")
        outcome.image_digest = image_digest(data)
        if outcome.image_digest == content.known_digest:
            outcome.outcome = "unchanged"
        else:
            outcome.pixels = decode(data)
    except ImageError as error:
        outcome.reject(error.reason, error.detail, error.transient)
        # What may be well again in a minute is tried again: the item keeps what it has until then.
        if content.title is not None and not error.transient:
            outcome.outcome = "degraded"
    except SamestyleError:
        raise
    except Exception as error:  # that nobody foresaw: another night, with another version, may do better
        outcome.reject("unexpected", f"{type(error).__name__}: {error}", transient=True)
    return outcome
