"""Titles to padded token arrays, pictures to stacked batches: what the graphs of an encoder take."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from samestyle.errors import UsageError

VIEWS = ("image", "text", "fused")


def load_tokenizer(path: Path, max_tokens: int) -> Tokenizer:
    """A tokenizer that cuts at `max_tokens`, special ones included, and leaves padding to `token_batches`."""
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.enable_truncation(max_tokens)
    tokenizer.no_padding()
    return tokenizer


def token_batches(
    tokenizer: Tokenizer, titles: Sequence[str], batch_size: int
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yield (rows (n,), ids (n, tokens), mask (n, tokens)), all int64, titles of like length together.

    `rows` are positions in `titles`; each occurs once. Padding has id 0 and mask 0.
    """
    # One title at a time: encode_batch would start threads, and a worker is forked and owns one core.
    tokens = [tokenizer.encode(title).ids for title in titles]
    by_length = np.argsort([len(ids) for ids in tokens], kind="stable")
    for start in range(0, len(tokens), batch_size):
        rows = by_length[start : start + batch_size]
        ids = np.zeros((len(rows), len(tokens[rows[-1]])), np.int64)
        mask = np.zeros_like(ids)
        for line, row in enumerate(rows):
            ids[line, : len(tokens[row])] = tokens[row]
            mask[line, : len(tokens[row])] = 1
        yield rows, ids, mask


def image_batches(images: Sequence[np.ndarray], batch_size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield (rows (n,) int64, pixels (n, size, size, 3) uint8) in the order given."""
    for start in range(0, len(images), batch_size):
        part = images[start : start + batch_size]
        yield np.arange(start, start + len(part)), np.stack(part)


def present(values: Sequence[object]) -> np.ndarray:
    """(present,) int64: the positions of what is not None."""
    return np.array([row for row, value in enumerate(values) if value is not None], np.int64)


def wanted_inputs(
    titles: Sequence[str | None], images: Sequence[np.ndarray | None], views: Sequence[str], size: int
) -> tuple[Sequence[str | None], Sequence[np.ndarray | None]]:
    """The same without the side that none of the views shows. Raises UsageError for an unknown view, and as below."""
    unknown = sorted(set(views) - set(VIEWS))
    if unknown:
        raise UsageError(f"unknown view {', '.join(unknown)}: choose from {', '.join(VIEWS)}")
    check_inputs(titles, images, size)
    return (
        titles if {"text", "fused"} & set(views) else [None] * len(titles),
        images if {"image", "fused"} & set(views) else [None] * len(images),
    )


def check_inputs(titles: Sequence[str | None], images: Sequence[np.ndarray | None], size: int) -> None:
    """Raise UsageError unless every row has a title or a (size, size, 3) uint8 image, or both."""
    if len(titles) != len(images):
        raise UsageError(f"{len(titles)} titles and {len(images)} images: pass one of each a row, None if missing")
    for row, (title, image) in enumerate(zip(titles, images, strict=True)):
        if title is None and image is None:
            raise UsageError(f"row {row} has neither title nor image: leave it out, it has no direction")
        if image is not None and (image.shape != (size, size, 3) or image.dtype != np.uint8):
            raise UsageError(
                f"image of row {row} is {image.shape} {image.dtype}, expected ({size}, {size}, 3) uint8: "
                "prepare it with samestyle.catalogue.images.decode_image"
            )
