"""What the backbones make of titles and photos, before an encoder joins the two sides into vectors."""

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np


class Side(NamedTuple):
    """One modality of n rows: vector (n, width), tokens (n, t, token width), mask (n, t); all float32.

    A token that counts has mask 1. A row without the modality is zero in all three. A network that gives no
    tokens has one token a row, of width 0.
    """

    vector: np.ndarray
    tokens: np.ndarray
    mask: np.ndarray

    @classmethod
    def missing(cls, rows: int, width: int, token_width: int) -> "Side":
        """Rows that all lack it: one token each, which does not count."""
        shapes = (rows, width), (rows, 1, token_width), (rows, 1)
        return cls(*(np.zeros(shape, np.float32) for shape in shapes))

    def spread(self, rows: np.ndarray, size: int) -> "Side":
        """The same as rows `rows` of `size`; the others lack the modality."""
        spread = (np.zeros((size, *part.shape[1:]), np.float32) for part in self)
        return Side(*(_filled(target, rows, part) for target, part in zip(spread, self, strict=True)))


@dataclass(frozen=True)
class Features:
    """Both sides of n rows, as float32: what `fusion.onnx` takes, in its order, and what training caches.

    image (n, half); image_tokens (n, s, width), s 16, or 1 where no row has a photo; image_mask (n, s);
    text (n, half); text_tokens (n, t, width), t that of the longest title; text_mask (n, t).
    """

    image: np.ndarray
    image_tokens: np.ndarray
    image_mask: np.ndarray
    text: np.ndarray
    text_tokens: np.ndarray
    text_mask: np.ndarray

    def __len__(self) -> int:
        return len(self.image)

    @property
    def has_image(self) -> np.ndarray:
        """(n,) bool."""
        return np.any(self.image_mask, axis=1)

    @property
    def has_text(self) -> np.ndarray:
        """(n,) bool."""
        return np.any(self.text_mask, axis=1)

    @property
    def arrays(self) -> tuple[np.ndarray, ...]:
        return tuple(vars(self).values())

    def take(self, rows: np.ndarray) -> "Features":
        """These rows, titles cut to the longest among them."""
        longest = max(1, int(self.text_mask[rows].sum(axis=1).max(initial=0)))
        part = Features(*(array[rows] for array in self.arrays))
        return replace(part, text_tokens=part.text_tokens[:, :longest], text_mask=part.text_mask[:, :longest])

    def showing(self, view: str) -> "Features":
        """As a view sees them: `image` without the titles, `text` without the photos, `fused` with both."""
        if view == "fused":
            return self
        hidden = "text" if view == "image" else "image"
        tokens = getattr(self, f"{hidden}_tokens")
        side = Side.missing(len(self), getattr(self, hidden).shape[1], tokens.shape[2])
        return replace(self, **{hidden: side.vector, f"{hidden}_tokens": side.tokens, f"{hidden}_mask": side.mask})


def _filled(target: np.ndarray, rows: np.ndarray, values: np.ndarray) -> np.ndarray:
    target[rows] = values
    return target
