"""PDC, product distinctiveness: a photo or a title alone still tells its product from the batch's other triggers."""

from torch import Tensor

from samestyle.training.ppm import hinge


def pdc(view: Tensor, trigger: Tensor, groups: Tensor, margin: float, published: bool = False) -> Tensor:
    """PPM's hinge between one view of the triggers and the fused triggers themselves; returns a scalar.

    view (B, d) floating point, rows of length 1: photo or title of trigger i alone; trigger (B, d) its fused vector;
    groups (B,) int64. S = view @ trigger.T, so S_ij is the cosine of view i and trigger j.

    Repaired form, for any B:
        mean of max(0, S_ij - S_ii + margin) and max(0, S_ji - S_ii + margin) over all i, j of different groups;
        0 where there are none.
    Published form: mean over the B (B - 1) entries with j != i of max(0, S_ij - S_ii + margin).

    S = [[0.8, 0.7], [0.6, 0.8]] and margin 0.2: rows lack 0.1 and 0, columns lack 0 and 0.1.

    >>> import torch
    >>> view = torch.tensor([[0.8, 0.7], [0.6, 0.8]])   # rows only nearly of length 1, for round numbers
    >>> trigger, groups = torch.eye(2), torch.tensor([3, 4])
    >>> round(pdc(view, trigger, groups, 0.2).item(), 4)
    0.05
    >>> round(pdc(view, trigger, groups, 0.2, published=True).item(), 4)
    0.05

    Raises UsageError for a batch of fewer than two pairs in the published form.
    """
    return hinge(view @ trigger.T, groups, margin, published)
