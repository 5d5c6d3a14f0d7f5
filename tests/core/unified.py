"""Fusions for tests: random, but not without effect as a fresh one is."""

import torch
from torch import nn

from samestyle.encoder.fusion import Fusion, FusionShape


def random_fusion(shape: FusionShape | None = None, seed: int = 0) -> Fusion:
    torch.manual_seed(seed)
    fusion = Fusion(shape or FusionShape())
    nn.init.normal_(fusion.out.weight, std=0.003)
    return fusion.eval().requires_grad_(False)
