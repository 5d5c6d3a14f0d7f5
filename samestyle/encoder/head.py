"""The trained head of a dual_stream encoder: a gate that weighs photo against title, number by number."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from samestyle.encoder.weights import WIDEST, fill, half, read_weights, save_weights
from samestyle.errors import IntegrityError


class Head(nn.Module):
    """Two vectors of a product, (n, dim) each, of unit length -> (n, dim) float32 of unit length.

    gate = sigmoid(W [image | text] + b), and gate * image + (1 - gate) * text, scaled to length 1. W and b start as
    zero, so that an untrained head gives the normalised sum.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.gate = nn.Linear(2 * dim, dim)
        nn.init.zeros_(self.gate.weight)
        nn.init.zeros_(self.gate.bias)

    def forward(self, image: Tensor, text: Tensor) -> Tensor:
        gate = torch.sigmoid(self.gate(torch.cat([image, text], dim=1)))
        return F.normalize(gate * image + (1 - gate) * text)


class HeadedSum(nn.Module):
    """The fused vectors of a dual_stream as training takes them: the same inputs as Fusion.join, (n, dim) float32.

    The head joins rows that have both sides; the vector of a lone side stays as it is. Tokens and masks are ignored.
    """

    def __init__(self, head: Head) -> None:
        super().__init__()
        self.head = head

    @property
    def dim(self) -> int:
        return self.head.dim

    def read(self, image_tokens: Tensor, text_tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens as they are."""
        return image_tokens, text_tokens

    def join(
        self,
        image: Tensor,
        image_tokens: Tensor,
        image_mask: Tensor,
        text: Tensor,
        text_tokens: Tensor,
        text_mask: Tensor,
    ) -> Tensor:
        """image, text (n, dim), of unit length, or zero where the side is missing or hidden."""
        both = image.any(dim=1, keepdim=True) & text.any(dim=1, keepdim=True)
        return torch.where(both, self.head(image, text), F.normalize(image + text))

    forward = join


def save_head(head: Head, path: Path, about: dict[str, Any]) -> None:
    """Write a head in fp16; `about` (JSON) says what it was trained on."""
    save_weights(head, {"dim": head.dim}, path, about)


def rounded_head(head: Head) -> Head:
    """The head as its file would give it back: a copy in fp16 precision, frozen, for evaluation."""
    return fill(Head(head.dim), half(head), Path("the head"))


def load_head(path: Path) -> tuple[Head, dict[str, Any]]:
    """The head of a file, in float32 and for evaluation, and what it says about itself.

    Raises IntegrityError for what is no such file, or does not hold what its own shape demands.
    """
    shape, tensors, about = read_weights(path)
    if not (shape.keys() == {"dim"} and isinstance(shape["dim"], int) and 0 < shape["dim"] <= WIDEST):
        raise IntegrityError(f"{path}: the shape is {shape}, expected {{'dim': 512}} or the like: no head of this kind")
    return fill(Head(shape["dim"]), tensors, path), about
