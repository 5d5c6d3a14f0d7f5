"""What workers make of contents for training: a Parquet row a content, packed into arrays that training maps.

A content is number `row` of the arrays, 0 to n - 1; the other columns are the bytes of arrays, none where it lacks the
modality. Features: image and text, float32 vectors; image_tokens and text_tokens, float16; of photos one a variant.
Photos: photo, a PNG file; tokens, int32.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.lib.format import open_memmap

from samestyle.encoder.features import Features as Encoded
from samestyle.training.features import Features
from samestyle.training.photos import Photos

FEATURE_COLUMNS = ("image", "image_tokens", "text", "text_tokens")
PHOTO_COLUMNS = ("photo", "tokens")
GRID = 16  # tokens of a photo


@dataclass(frozen=True)
class Widths:
    """Of an encoder's halves and tokens, 0 where it gives none, and how many variants of a photo are kept."""

    image_half: int
    text_half: int
    image: int
    text: int
    variants: int

    @property
    def photo_bytes(self) -> int:
        """What the features of one photo take on disk."""
        return self.variants * (4 * self.image_half + 2 * GRID * self.image)

    @property
    def title_bytes(self) -> int:
        """The same of a title, without its tokens, of which each takes token_bytes."""
        return 4 * self.text_half

    @property
    def token_bytes(self) -> int:
        return 2 * self.text


def ddl(columns: Sequence[str]) -> str:
    return ", ".join(["row long", *(f"{name} binary" for name in columns)])


def as_batch(rows: Sequence[int], columns: Mapping[str, Sequence[bytes]]) -> pa.RecordBatch:
    arrays = {name: pa.array(values, pa.binary()) for name, values in columns.items()}
    return pa.RecordBatch.from_pydict({"row": pa.array(rows, pa.int64()), **arrays})


def feature_batch(rows: Sequence[int], titles: dict[int, Encoded], photos: dict[int, Encoded]) -> pa.RecordBatch:
    """titles, photos: number of a content to its features, one row for its title and one for each variant of its
    photo; absent where it has none."""
    shown, said = [photos.get(row) for row in rows], [titles.get(row) for row in rows]
    columns = {
        "image": [photo.image.tobytes() if photo else b"" for photo in shown],
        "image_tokens": [half_precision(photo.image_tokens) if photo else b"" for photo in shown],
        "text": [title.text.tobytes() if title else b"" for title in said],
        "text_tokens": [half_precision(title.text_tokens[title.text_mask > 0]) if title else b"" for title in said],
    }
    return as_batch(rows, columns)


def half_precision(tokens: np.ndarray) -> bytes:
    return tokens.astype(np.float16).tobytes()


def pack_features(files: Sequence[Path], folder: Path, widths: Widths) -> Features:
    """Parquet files of FEATURE_COLUMNS as the arrays of Features below `folder`; a row group is in memory at a time."""
    # Without tokens a title counts as one of width 0, which says that it is there.
    tokens = ("text_tokens", widths.token_bytes) if widths.text else ("text", widths.title_bytes)
    offsets = offsets_of(files, *tokens)
    n, v = len(offsets) - 1, widths.variants
    into = Arrays(folder)
    image = into.new("image", (v, n, widths.image_half), np.float32)
    image_tokens = into.new("image_tokens", (v, n, GRID, widths.image), np.float16)
    has_image = into.new("has_image", (n,), np.bool_)
    text = into.new("text", (n, widths.text_half), np.float32)
    text_tokens = into.new("text_tokens", (int(offsets[-1]), widths.text), np.float16)
    into.new("text_offsets", (n + 1,), np.int64)[:] = offsets
    for row, *data in rows_of(files, FEATURE_COLUMNS):
        if data[0]:
            has_image[row] = True
            put(image[:, row], data[0])
            put(image_tokens[:, row], data[1])
        if data[2]:
            put(text[row], data[2])
            put(text_tokens[offsets[row] : offsets[row + 1]], data[3])
    into.flush()
    return Features.open(folder)


def pack_photos(files: Sequence[Path], folder: Path, size: int) -> Photos:
    """Parquet files of PHOTO_COLUMNS as the arrays of Photos below `folder`; size: pixels a side."""
    photos, tokens = offsets_of(files, "photo", 1), offsets_of(files, "tokens", 4)
    into = Arrays(folder)
    photo_bytes = into.new("photo_bytes", (int(photos[-1]),), np.uint8)
    token_ids = into.new("token_ids", (int(tokens[-1]),), np.int32)
    into.new("photo_offsets", photos.shape, np.int64)[:] = photos
    into.new("token_offsets", tokens.shape, np.int64)[:] = tokens
    into.new("side", (1,), np.int64)[:] = size
    for row, photo, ids in rows_of(files, PHOTO_COLUMNS):
        put(photo_bytes[photos[row] : photos[row + 1]], photo)
        put(token_ids[tokens[row] : tokens[row + 1]], ids)
    into.flush()
    return Photos.open(folder)


class Arrays:
    """New .npy files of a folder, mapped, so that they may be larger than memory."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.made: list[np.memmap] = []
        folder.mkdir(parents=True, exist_ok=True)

    def new(self, name: str, shape: tuple[int, ...], dtype: type) -> np.ndarray:
        """Filled with zeros. An array without elements cannot be mapped, and is just written."""
        path = self.folder / f"{name}.npy"
        if 0 in shape:
            np.save(path, np.zeros(shape, dtype))
            return np.zeros(shape, dtype)
        self.made.append(open_memmap(path, "w+", dtype, shape))
        return self.made[-1]

    def flush(self) -> None:
        for array in self.made:
            array.flush()


def offsets_of(files: Sequence[Path], column: str, item: int) -> np.ndarray:
    """(n + 1,) int64: where the items of each content start, and where the last ones end; `item`: bytes of one."""
    lengths = {row: len(data) // item for row, data in rows_of(files, [column])}
    return np.cumsum([0, *(lengths[row] for row in range(len(lengths)))]).astype(np.int64)


def rows_of(files: Sequence[Path], columns: Sequence[str]) -> Iterator[tuple]:
    """(row, value of each column) of all rows."""
    for file in files:
        for batch in pq.ParquetFile(file).iter_batches(256, columns=["row", *columns]):
            yield from zip(*(batch.column(name).to_pylist() for name in ("row", *columns)), strict=True)


def put(target: np.ndarray, data: bytes) -> None:
    target[...] = np.frombuffer(data, target.dtype).reshape(target.shape)
