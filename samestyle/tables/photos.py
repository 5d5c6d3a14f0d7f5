"""Photos of a handful of items, for people to look at: decoded on the driver, within a fixed time."""

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
from pyspark.sql import DataFrame, Row
from pyspark.sql import functions as F

from samestyle.catalogue.fetch import FetchPolicy, fetch
from samestyle.catalogue.images import DecodeLimits, decode_image, to_jpeg
from samestyle.errors import ImageError

SIZE = 112
FETCHES = 8
BUDGET_S = 60.0
MOST_BYTES = 4_000_000  # of a photo in a binary column: a hundred of them must fit the driver


@dataclass(frozen=True)
class Photo:
    """pixels: (size, size, 3) uint8, RGB; or None with a short reason in `missing`."""

    pixels: np.ndarray | None
    missing: str = ""

    def jpeg(self) -> bytes | None:
        return None if self.pixels is None else to_jpeg(self.pixels)


def load_photos(
    rows: Sequence[Row],
    policy: FetchPolicy,
    limits: DecodeLimits,
    images: dict[str, bytes] | None = None,
    size: int = SIZE,
) -> list[Photo]:
    """One photo a row, in their order; rows have item_id and image_uri. `images`: bytes by item_id, of binary columns.

    What is not there, cannot be decoded, or has not come when the time is up is told in `missing`.
    """
    ends = time.monotonic() + BUDGET_S
    # Nobody waits for a photo as a worker does: a dead image server must not hold up the end of a run.
    hasty = replace(policy, retries=0, timeout_s=min(policy.timeout_s, 5), deadline_s=min(policy.deadline_s, 10))

    def load(row: Row) -> Photo:
        data = (images or {}).get(row["item_id"])
        if data is None and row["image_uri"] is None:
            return Photo(None, "no photo")
        if time.monotonic() > ends:
            return Photo(None, "time is up")
        try:
            return Photo(decode_image(data if data is not None else fetch(row["image_uri"], hasty), limits, size))
        except ImageError as error:
            return Photo(None, error.reason)

    with ThreadPoolExecutor(FETCHES) as pool:
        return list(pool.map(load, rows))


def images_of(catalogue: DataFrame, item_ids: Sequence[str]) -> dict[str, bytes]:
    """Photos of a binary column by item_id. catalogue: rows of read_catalogue; empty and huge photos are left out."""
    wanted = catalogue.where(F.col("item_id").isin(list(item_ids))).select("item_id", "image")
    # Ids may repeat in a catalogue, without end.
    usable = wanted.where(F.length("image").between(1, MOST_BYTES)).limit(2 * len(item_ids))
    return {row["item_id"]: bytes(row["image"]) for row in usable.collect()}
