"""What training reads of contents, made by workers: what the backbones give for them, or their photos and tokens."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa

from samestyle.catalogue.fetch import FetchPolicy
from samestyle.catalogue.images import DecodeLimits
from samestyle.encoder.contents import FETCHES, Content, prepare
from samestyle.encoder.files import EncoderFiles
from samestyle.encoder.preprocessing import load_tokenizer
from samestyle.encoder.registry import EncoderReference, local_copy
from samestyle.encoder.runtime import Encoder
from samestyle.training.cache import as_batch, feature_batch
from samestyle.training.photos import to_png
from samestyle.training.variants import variants_of

BATCH = 32
Rows = list[dict[str, Any]]
Shown = list[np.ndarray | None]
Maker = Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]


def feature_maker(
    encoder: EncoderReference,
    policy: FetchPolicy,
    limits: DecodeLimits,
    variants: int,
    threads: int,
    count: Callable[[int, int], None],
) -> Maker:
    """For mapInArrow over (row long, title string, image binary, image_uri string); yields cache.FEATURE_COLUMNS.

    A photo that cannot be had counts as none. count(rows, without photo and title) is told of every batch.
    """

    def make(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        loaded = encoder.load(threads)
        for rows, photos in shown_rows(batches, policy, limits, loaded.image_size, count):
            yield encoded(rows, photos, loaded, variants)

    return make


def photo_maker(
    encoder: EncoderReference,
    policy: FetchPolicy,
    limits: DecodeLimits,
    count: Callable[[int, int], None],
) -> Maker:
    """The same, but yields cache.PHOTO_COLUMNS."""

    def make(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        files = EncoderFiles.open(local_copy(encoder.store, encoder.encoder_id))
        settings = files.manifest["identity"]["preprocessing"]
        tokenizer = load_tokenizer(files.path("tokenizer.json"), settings["text"]["max_tokens"])
        for rows, photos in shown_rows(batches, policy, limits, settings["image"]["size"], count):
            tokens = [tokenizer.encode(row["title"]).ids if row["title"] else [] for row in rows]
            columns = {
                "photo": [b"" if photo is None else to_png(photo) for photo in photos],
                "tokens": [np.array(ids, np.int32).tobytes() for ids in tokens],
            }
            yield as_batch([row["row"] for row in rows], columns)

    return make


def shown_rows(
    batches: Iterator[pa.RecordBatch],
    policy: FetchPolicy,
    limits: DecodeLimits,
    size: int,
    count: Callable[[int, int], None],
) -> Iterator[tuple[Rows, Shown]]:
    """The rows in small batches, each with its decoded photo."""

    def photo_of(row: dict[str, Any]) -> np.ndarray | None:
        return prepare(Content(row["title"], row["image"], row["image_uri"]), policy, limits, size).pixels

    with ThreadPoolExecutor(FETCHES) as pool:
        for large in batches:
            for start in range(0, large.num_rows, BATCH):
                rows = large.slice(start, BATCH).to_pylist()
                photos = list(pool.map(photo_of, rows))
                yield rows, photos
                empty = [row for row, photo in zip(rows, photos, strict=True) if not row["title"] and photo is None]
                count(len(rows), len(empty))


def encoded(rows: Rows, photos: Shown, encoder: Encoder, variants: int) -> pa.RecordBatch:
    titles = {row["row"]: row["title"] for row in rows if row["title"]}
    shown = {row["row"]: photo for row, photo in zip(rows, photos, strict=True) if photo is not None}
    pictures = [picture for row, photo in shown.items() for picture in variants_of(photo, variants, row)]
    words = encoder.features(list(titles.values()), [None] * len(titles))
    images = encoder.features([None] * len(pictures), pictures)
    return feature_batch(
        [row["row"] for row in rows],
        {row: words.take(np.array([i])) for i, row in enumerate(titles)},
        {row: images.take(np.arange(i * variants, (i + 1) * variants)) for i, row in enumerate(shown)},
    )
