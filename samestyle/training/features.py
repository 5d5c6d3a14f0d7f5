"""Cached inputs of a fusion or a head: what the frozen backbones give for each content, computed once, read often."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path

import numpy as np

Inputs = dict[str, np.ndarray]


@dataclass(frozen=True)
class Features:
    """A row a content; n contents, v variants of each photo (the photo itself first, then changed ones).

    image (v, n, half) float32 and image_tokens (v, n, s, image_width) float16, zero where there is no photo;
    text (n, half) float32, zero where there is no title; text_tokens (all tokens, text_width) float16, those of
    row i from text_offsets[i] to text_offsets[i + 1] (n + 1, int64); has_image (n,) bool. Of an encoder without tokens
    both widths are 0, and a title has one such token.
    """

    image: np.ndarray
    image_tokens: np.ndarray
    has_image: np.ndarray
    text: np.ndarray
    text_tokens: np.ndarray
    text_offsets: np.ndarray

    def __len__(self) -> int:
        return len(self.has_image)

    @cached_property
    def has_text(self) -> np.ndarray:
        """(n,) bool."""
        return np.diff(self.text_offsets) > 0

    @cached_property
    def longest(self) -> int:
        """Tokens of the longest title."""
        return int(np.diff(self.text_offsets).max(initial=1))

    @property
    def variants(self) -> int:
        return len(self.image)

    def batch(self, rows: np.ndarray, variants: np.ndarray) -> Inputs:
        """The inputs of a Fusion or a HeadedSum for these rows; variants (rows,) int64 says which of each photo."""
        text_tokens, text_mask = self._text(rows)
        tokens = self.image_tokens[variants, rows].astype(np.float32)
        mask = np.repeat(self.has_image[rows, None], tokens.shape[1], axis=1).astype(np.float32)
        return {
            "image": self.image[variants, rows],
            "image_tokens": tokens,
            "image_mask": mask,
            "text": self.text[rows],
            "text_tokens": text_tokens,
            "text_mask": text_mask,
        }

    def _text(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        starts, ends = self.text_offsets[rows], self.text_offsets[rows + 1]
        longest = max(1, int((ends - starts).max(initial=0)))
        tokens = np.zeros((len(rows), longest, self.text_tokens.shape[1]), np.float32)
        mask = np.zeros((len(rows), longest), np.float32)
        for line, (start, end) in enumerate(zip(starts, ends, strict=True)):
            tokens[line, : end - start] = self.text_tokens[start:end]
            mask[line, : end - start] = 1
        return tokens, mask

    def save(self, folder: Path) -> None:
        """One .npy file an array."""
        folder.mkdir(parents=True, exist_ok=True)
        for field in fields(self):
            np.save(folder / f"{field.name}.npy", getattr(self, field.name))

    @classmethod
    def open(cls, folder: Path) -> "Features":
        """Mapped from disk, so that they may be larger than memory."""
        names = [field.name for field in fields(cls)]
        return cls(*(np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in names))


def stacked(parts: Sequence[Features]) -> Features:
    """Several as one, in their order."""
    starts = np.cumsum([0, *(len(part.text_tokens) for part in parts)])
    offsets = [part.text_offsets[:-1] + start for part, start in zip(parts, starts, strict=False)]
    return Features(
        np.concatenate([part.image for part in parts], axis=1),
        np.concatenate([part.image_tokens for part in parts], axis=1),
        np.concatenate([part.has_image for part in parts]),
        np.concatenate([part.text for part in parts]),
        np.concatenate([part.text_tokens for part in parts]),
        np.concatenate([*offsets, starts[-1:]]),
    )
