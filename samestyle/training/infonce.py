"""InfoNCE, the usual contrastive loss, here for comparison: which of the batch's offers belongs to this trigger?"""

import torch
from torch import Tensor
from torch.nn import functional as F


def infonce(view: Tensor, offer: Tensor, groups: Tensor, temperature: float) -> Tensor:
    """Cross entropy in both directions over a batch of pairs; returns a scalar.

    view, offer (B, d) floating point, rows of length 1, row i of both the same style; groups (B,) int64. With
    L = view @ offer.T / temperature, and j over i itself and all pairs of other groups:
        mean over i of  -log(exp(L_ii) / sum over j of exp(L_ij)),  and the same with L transposed; then their mean.
    0 where there are no negatives.

    L = [[1, 0], [0, 1]] / 1: each of the four rows and columns costs -log(e / (e + 1)).

    >>> groups = torch.tensor([0, 1])
    >>> round(infonce(torch.eye(2), torch.eye(2), groups, 1.0).item(), 4)
    0.3133
    >>> infonce(torch.eye(2), torch.eye(2), torch.tensor([5, 5]), 1.0).item()
    0.0
    """
    logits = view @ offer.T / temperature
    size = len(logits)
    if size == 0:
        return logits.sum()
    own = torch.arange(size, device=logits.device)
    same = (groups[:, None] == groups[None, :]) & (own[:, None] != own[None, :])
    logits = logits.masked_fill(same, float("-inf"))
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2
