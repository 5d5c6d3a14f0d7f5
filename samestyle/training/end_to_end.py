"""Both backbones and the fusion as one model, for training through all of it on photos and titles."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from samestyle.encoder.export import late_fusion_modules, with_tokens
from samestyle.encoder.fusion import IMAGE_GRID, Fusion
from samestyle.encoder.sources import Sources

Tensors = dict[str, Tensor]


class EndToEnd(nn.Module):
    """Photos and titles -> what the fusion takes -> vectors. All of it is trained."""

    def __init__(self, image: nn.Module, text: nn.Module, fusion: Fusion) -> None:
        super().__init__()
        self.image, self.text, self.fusion = image, text, fusion
        self.requires_grad_(True)

    @classmethod
    def around(cls, fusion: Fusion, image_size: int) -> "EndToEnd":
        """With the packaged backbones. Raises UsageError where they are not installed."""
        sides = with_tokens(late_fusion_modules(Sources.find(), image_size))
        return cls(sides["image"], sides["text"], fusion)

    def train(self, mode: bool = True) -> "EndToEnd":
        """The backbones stay in evaluation mode: the statistics of a batch of 64 are worse than those that they have,
        and the exported graphs use these."""
        super().train(mode)
        self.image.eval()
        self.text.eval()
        return self

    def backbone_parameters(self) -> Iterator[nn.Parameter]:
        yield from self.image.parameters()
        yield from self.text.parameters()

    def features(self, inputs: Tensors) -> Tensors:
        """images (n, size, size, 3) uint8 and has_image (n,) bool; ids and mask (n, t) int64, mask all 0 without a
        title -> the inputs of Fusion.forward."""
        has_image, has_text = inputs["has_image"], inputs["mask"].any(dim=1)
        image = spread(self.image(inputs["images"][has_image]), has_image)
        text = spread(self.text(inputs["ids"][has_text], inputs["mask"][has_text]), has_text)
        image_mask = has_image[:, None].expand(-1, IMAGE_GRID**2)
        return {
            "image": image[0],
            "image_tokens": image[1],
            "image_mask": image_mask.to(image[0]),
            "text": text[0],
            "text_tokens": text[1],
            "text_mask": inputs["mask"].to(text[0]),
        }


def spread(parts: tuple[Tensor, Tensor], present: Tensor) -> list[Tensor]:
    """Each part (m, ...) as (n, ...), its rows where `present` (n,) is true, zero elsewhere."""
    rows = torch.nonzero(present).squeeze(1)
    whole = (part.new_zeros(len(present), *part.shape[1:]) for part in parts)
    return [target.index_copy(0, rows, part) for target, part in zip(whole, parts, strict=True)]
