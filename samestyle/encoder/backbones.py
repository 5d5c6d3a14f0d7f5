"""Frozen backbones as torch modules, for export, fitting and training: EfficientNet-Lite2 and MiniLM-L6."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

IMAGE_FEATURES = 1280 + 2 * 352 + 2 * 120
BLOCK_14, LAST_BLOCK = 14, 20  # the last ones with maps of 14 x 14 and of 7 x 7
GEM_POWER = 3.0
# The weights come from TensorFlow, whose Lite models want (127, 128). ImageNet's mean and deviation, as in
# the package's own example, cost 4 to 8 points of recall@1 in sets of photos and drawings.
PIXEL_MEAN, PIXEL_SCALE = 127.0, 128.0


class ImageFeatures(nn.Module):
    """(n, size, size, 3) uint8 RGB -> (n, 2224) float32: three depths of EfficientNet-Lite2, pooled."""

    token_width = 1280

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    @classmethod
    def load(cls, weights: Path, size: int = 224) -> "ImageFeatures":
        """Frozen, for square images of `size` pixels."""
        from efficientnet_lite_pytorch import EfficientNet

        network = EfficientNet.from_name("efficientnet-lite2", image_size=size)
        network.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
        return cls(network).eval().requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        return self.with_tokens(images)[0]

    def with_tokens(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The pooled features, and (n, 16, 1280): the last map averaged into a grid of 4 x 4, row by row."""
        network, maps = self.network, []
        x = (images.permute(0, 3, 1, 2).float() - PIXEL_MEAN) / PIXEL_SCALE
        x = network._swish(network._bn0(network._conv_stem(x)))
        for block in network._blocks:
            x = block(x)
            maps.append(x)
        last = network._swish(network._bn1(network._conv_head(x)))
        shallow = [mean_and_deviation(maps[number]) for number in (LAST_BLOCK, BLOCK_14)]
        # The exported graph then says how many features there are.
        pooled = torch.cat([generalised_mean(last), *shallow], dim=1).reshape(-1, IMAGE_FEATURES)
        return pooled, grid_means(last)


class TextFeatures(nn.Module):
    """(n, tokens) int64 ids and mask -> (n, 384) float32: mean of MiniLM-L6's token outputs."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    @classmethod
    def load(cls, folder: Path) -> "TextFeatures":
        """Frozen, from a folder with config.json and model.safetensors."""
        from safetensors.torch import load_file
        from transformers import BertConfig, BertModel

        config = BertConfig.from_json_file(folder / "config.json")
        config._attn_implementation = "eager"  # the only one that the exporter traces with a free batch size
        network = BertModel(config, add_pooling_layer=False)
        tensors = load_file(folder / "model.safetensors")
        network.load_state_dict({name: t for name, t in tensors.items() if name in network.state_dict()})
        return cls(network).eval().requires_grad_(False)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        return self.with_tokens(ids, mask)[0]

    def with_tokens(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """The pooled features, and the tokens' own: (n, tokens, 384), zero where mask is."""
        weights = mask.unsqueeze(2)
        tokens = self.network(input_ids=ids, attention_mask=mask).last_hidden_state * weights
        return tokens.sum(1) / weights.sum(1), tokens


class Half(nn.Module):
    """Features of one side -> (n, half) float32 of unit length: centred, projected, half-whitened.

    mean (features,), components (half, features) orthonormal rows, scales (half,) eigenvalues ** -1/4.
    """

    def __init__(self, features: nn.Module, mean: Tensor, components: Tensor, scales: Tensor) -> None:
        super().__init__()
        self.features = features
        weight = components.float() * scales.float().unsqueeze(1)
        self.projection = nn.Linear(weight.shape[1], weight.shape[0])
        self.projection.load_state_dict({"weight": weight, "bias": -(weight @ mean.float())})
        self.eval().requires_grad_(False)

    def forward(self, *inputs: Tensor) -> Tensor:
        return F.normalize(self.projection(self.features(*inputs)))


class HalfAndTokens(nn.Module):
    """The same, and the tokens beside it: ((n, half), (n, tokens, width)); what the encoder `unified` starts from."""

    def __init__(self, half: Half) -> None:
        super().__init__()
        self.side = half

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        pooled, tokens = self.side.features.with_tokens(*inputs)  # type: ignore[operator]
        return F.normalize(self.side.projection(pooled)), tokens


def mean_and_deviation(feature_map: Tensor) -> Tensor:
    """(n, c, h, w) -> (n, 2c): mean and population standard deviation over the positions."""
    return torch.cat([feature_map.mean((2, 3)), feature_map.flatten(2).std(2, correction=0)], dim=1)


def grid_means(feature_map: Tensor, grid: int = 4) -> Tensor:
    """(n, c, h, w) -> (n, grid * grid, c): torch's adaptive average pooling, as a product that ONNX knows."""
    # As plain numbers, or the exporter would write their arithmetic into the graph, and get it wrong.
    rows, columns = (pooling_weights(int(size), grid) for size in feature_map.shape[2:])
    means = torch.einsum("nchw,ah,bw->nabc", feature_map, rows.to(feature_map), columns.to(feature_map))
    return means.flatten(1, 2)


def pooling_weights(size: int, cells: int) -> Tensor:
    """(cells, size): row i averages the positions from floor(i size / cells) to ceil((i + 1) size / cells)."""
    weights = torch.zeros(cells, size)
    for i in range(cells):
        start, end = i * size // cells, -(-(i + 1) * size // cells)
        weights[i, start:end] = 1 / (end - start)
    return weights


def generalised_mean(feature_map: Tensor, power: float = GEM_POWER) -> Tensor:
    """(n, c, h, w) -> (n, c): power 1 is the mean, infinity the maximum; negative values count as 0."""
    return feature_map.clamp(min=1e-6).pow(power).mean((2, 3)).pow(1 / power)
