"""The Cross-BERT of the encoder `unified`: one transformer over title and image tokens, a capped step from the base."""

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

IMAGE_GRID = 4  # tokens a side


@dataclass(frozen=True)
class FusionShape:
    """What decides the shapes of a fusion's tensors. residual_cap None: the published form, without a base."""

    image_half: int = 160
    text_half: int = 96
    image_width: int = 1280
    text_width: int = 384
    width: int = 192
    layers: int = 1
    heads: int = 4
    residual_cap: float | None = 0.45

    @property
    def dim(self) -> int:
        return self.image_half + self.text_half

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


class Fusion(nn.Module):
    """Both sides' base and tokens -> (n, dim) float32 of unit length.

    Views are made by masking: a missing or hidden modality has base 0 and mask 0. With a cap c the output is
    normalise(base + step), |step| <= c; the step starts as zero, so that an untrained fusion is late_fusion.
    Without a cap it is normalise(step), and nothing of the base gets through.
    """

    def __init__(self, shape: FusionShape) -> None:
        super().__init__()
        self.shape = shape
        self.image_in = nn.Sequential(nn.LayerNorm(shape.image_width), nn.Linear(shape.image_width, shape.width))
        self.text_in = nn.Sequential(nn.LayerNorm(shape.text_width), nn.Linear(shape.text_width, shape.width))
        self.base_in = nn.Linear(shape.dim, shape.width)
        self.cls = nn.Parameter(torch.randn(shape.width) * 0.02)
        self.positions = nn.Parameter(torch.randn(IMAGE_GRID**2, shape.width) * 0.02)
        self.blocks = nn.ModuleList(Block(shape.width, shape.heads) for _ in range(shape.layers))
        self.norm = nn.LayerNorm(shape.width)
        self.out = nn.Linear(shape.width, shape.dim)
        if shape.residual_cap is not None:
            nn.init.zeros_(self.out.weight)
            nn.init.zeros_(self.out.bias)

    @property
    def dim(self) -> int:
        return self.shape.dim

    def forward(
        self,
        image: Tensor,
        image_tokens: Tensor,
        image_mask: Tensor,
        text: Tensor,
        text_tokens: Tensor,
        text_mask: Tensor,
    ) -> Tensor:
        """image (n, image_half), text (n, text_half), zero where missing; image_tokens (n, s, image_width) with s 16,
        or 1 where no row has an image; text_tokens (n, t, text_width); masks (n, s) and (n, t) float32, 1 for a token
        that counts.
        """
        image_tokens, text_tokens = self.read(image_tokens, text_tokens)
        return self.join(image, image_tokens, image_mask, text, text_tokens, text_mask)

    def read(self, image_tokens: Tensor, text_tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Both in the fusion's own width, (n, s, width) and (n, t, width): views share it, training does it once."""
        return self.image_in(image_tokens) + self.positions[: image_tokens.shape[1]], self.text_in(text_tokens)

    def join(
        self,
        image: Tensor,
        image_tokens: Tensor,
        image_mask: Tensor,
        text: Tensor,
        text_tokens: Tensor,
        text_mask: Tensor,
    ) -> Tensor:
        """What forward does with tokens that were read."""
        base = F.normalize(torch.cat([image, text], dim=1))
        first = (self.cls + self.base_in(base)).unsqueeze(1)
        tokens = torch.cat([first, text_tokens, image_tokens], dim=1)
        mask = torch.cat([torch.ones_like(image_mask[:, :1]), text_mask, image_mask], dim=1)
        for block in self.blocks[:-1]:
            tokens = block(tokens, tokens, mask)
        first = self.blocks[-1](tokens[:, :1], tokens, mask)  # of the last layer nothing else is read
        step = self.out(self.norm(first[:, 0]))
        if self.shape.residual_cap is None:
            return F.normalize(step)
        cap = self.shape.residual_cap
        return F.normalize(base + step * (cap / step.norm(dim=1, keepdim=True).clamp(min=cap)))


class Block(nn.Module):
    """A pre-norm transformer layer whose attention sees only tokens that count."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key, self.value, self.join = (nn.Linear(width, width) for _ in range(4))
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, queries: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
        """queries (n, q, width), the tokens that are to be computed anew; tokens (n, l, width), mask (n, l)."""
        queries = queries + self.attend(self.norm1(queries), self.norm1(tokens), mask)
        return queries + self.mlp(self.norm2(queries))

    def attend(self, queries: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
        q, k, v = (
            part(of).unflatten(2, (self.heads, -1)).transpose(1, 2)
            for part, of in ((self.query, queries), (self.key, tokens), (self.value, tokens))
        )
        scores = q @ k.transpose(2, 3) * q.shape[3] ** -0.5
        hidden = (mask - 1.0)[:, None, None, :] * 1e4  # fp16 has no 1e9
        return self.join((torch.softmax(scores + hidden, dim=3) @ v).transpose(1, 2).flatten(2))
