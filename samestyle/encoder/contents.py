"""From a content, title and photo as they are, to its outcome: vectors, or the reason why not. A bad row costs one."""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from samestyle.catalogue.fetch import FetchPolicy, fetch
from samestyle.catalogue.images import DecodeLimits, decode_image, image_digest
from samestyle.encoder.runtime import VIEWS, Encoder
from samestyle.errors import ImageError

FETCHES = 8  # photos on their way at once, a worker
Row = TypeVar("Row")


@dataclass(frozen=True)
class Content:
    """What is to be embedded. `known_digest`: sha256 of the photo's bytes that are embedded already."""

    title: str | None
    image: bytes | None
    image_uri: str | None
    known_digest: str | None = None


@dataclass
class Outcome:
    """What became of a content. Vectors are (dim,) float32 of unit length, or None."""

    outcome: str = "embedded"
    reason: str | None = None
    detail: str | None = None
    transient: bool = False
    image_digest: str | None = None
    pixels: np.ndarray | None = None
    vectors: dict[str, np.ndarray | None] = field(default_factory=lambda: dict.fromkeys(VIEWS))


def embed_contents(
    contents: Iterable[Content], encoder: Encoder, policy: FetchPolicy, limits: DecodeLimits, batch_size: int
) -> Iterator[Outcome]:
    """Outcomes in the order of the contents; photos are fetched and decoded ahead of the encoder."""
    with ThreadPoolExecutor(FETCHES) as pool:
        for batch in batches(contents, batch_size):
            outcomes = list(pool.map(lambda content: prepare(content, policy, limits, encoder.image_size), batch))
            encode(batch, outcomes, encoder)
            yield from outcomes


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
    outcome = Outcome()
    if not content.image and content.image_uri is None:
        return outcome
    try:
        data = content.image or fetch(content.image_uri or "", policy)
        outcome.image_digest = image_digest(data)
        if outcome.image_digest == content.known_digest:
            outcome.outcome = "unchanged"
        else:
            outcome.pixels = decode_image(data, limits, size)
    except ImageError as error:
        outcome.reason, outcome.detail, outcome.transient = error.reason, error.detail, error.transient
        # What may be well again in a minute is tried again: the item keeps what it has until then.
        degraded = content.title is not None and not error.transient
        outcome.outcome = "degraded" if degraded else "rejected"
    return outcome


def encode(batch: Sequence[Content], outcomes: Sequence[Outcome], encoder: Encoder) -> None:
    """Fill in the vectors of those that can be encoded, in one call."""
    wanted = [i for i, outcome in enumerate(outcomes) if outcome.outcome in ("embedded", "degraded")]
    if not wanted:
        return
    titles, images = [batch[i].title for i in wanted], [outcomes[i].pixels for i in wanted]
    views = encoder.encode(titles, images)
    for row, i in enumerate(wanted):
        for view in VIEWS:
            vector = views[view][row]
            outcomes[i].vectors[view] = vector if vector.any() else None
        outcomes[i].pixels = None
