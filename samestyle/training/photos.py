"""Photos and tokenised titles of contents, for training through the backbones: decoded as they are needed."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path

import cv2
import numpy as np

from samestyle.training.features import Inputs
from samestyle.training.variants import changed

DECODERS = 8  # threads; decoding lets go of Python's lock


@dataclass(frozen=True)
class Photos:
    """A row a content. photo_bytes (all bytes,) uint8, those of row i from photo_offsets[i] to photo_offsets[i + 1]
    (n + 1, int64), none without a photo: PNG files of the encoder's size, which workers made of what they fetched.
    token_ids (all tokens,) int32 likewise with token_offsets; side (1,) int64, the pixels of a side.
    """

    photo_bytes: np.ndarray
    photo_offsets: np.ndarray
    token_ids: np.ndarray
    token_offsets: np.ndarray
    side: np.ndarray

    variants = 1000  # a photo is changed anew at every use; the first variant is the photo itself

    def __len__(self) -> int:
        return len(self.photo_offsets) - 1

    @property
    def size(self) -> int:
        return int(self.side[0])

    @cached_property
    def has_image(self) -> np.ndarray:
        """(n,) bool."""
        return np.diff(self.photo_offsets) > 0

    @cached_property
    def has_text(self) -> np.ndarray:
        """(n,) bool."""
        return np.diff(self.token_offsets) > 0

    @cached_property
    def longest(self) -> int:
        """Tokens of the longest title."""
        return int(np.diff(self.token_offsets).max(initial=1))

    def batch(self, rows: np.ndarray, variants: np.ndarray) -> Inputs:
        """The inputs of EndToEnd.features."""
        with ThreadPoolExecutor(DECODERS) as pool:
            images = np.stack([*pool.map(self._photo, rows, variants), *([] if len(rows) else [self._blank()])])
        ids, mask = self._titles(rows)
        return {"images": images[: len(rows)], "has_image": self.has_image[rows], "ids": ids, "mask": mask}

    def _blank(self) -> np.ndarray:
        return np.zeros((self.size, self.size, 3), np.uint8)

    def _photo(self, row: int, variant: int) -> np.ndarray:
        if not self.has_image[row]:
            return self._blank()
        image = from_png(self.photo_bytes[self.photo_offsets[row] : self.photo_offsets[row + 1]])
        return changed(image, np.random.default_rng((row, variant))) if variant else image

    def _titles(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        starts, ends = self.token_offsets[rows], self.token_offsets[rows + 1]
        longest = max(1, int((ends - starts).max(initial=0)))
        ids, mask = np.zeros((2, len(rows), longest), np.int64)
        for line, (start, end) in enumerate(zip(starts, ends, strict=True)):
            ids[line, : end - start] = self.token_ids[start:end]
            mask[line, : end - start] = 1
        return ids, mask

    def save(self, folder: Path) -> None:
        """One .npy file an array."""
        folder.mkdir(parents=True, exist_ok=True)
        for field in fields(self):
            np.save(folder / f"{field.name}.npy", getattr(self, field.name))

    @classmethod
    def open(cls, folder: Path) -> "Photos":
        """Mapped from disk, so that they may be larger than memory."""
        names = [field.name for field in fields(cls)]
        return cls(*(np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in names))


def to_png(image: np.ndarray) -> bytes:
    """(size, size, 3) uint8 RGB, without loss."""
    return cv2.imencode(".png", image[:, :, ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 1])[1].tobytes()


def from_png(data: np.ndarray) -> np.ndarray:
    """What to_png was given; data: its bytes as uint8."""
    return np.ascontiguousarray(np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR))[:, :, ::-1])
