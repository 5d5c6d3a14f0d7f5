"""PPM, product-to-product matching: an offer of the same style is nearer than the batch's other offers, by a margin."""

import torch
from torch import Tensor

from samestyle.errors import UsageError


def ppm(trigger: Tensor, offer: Tensor, groups: Tensor, margin: float, published: bool = False) -> Tensor:
    """Hinge over a batch of pairs; returns a scalar.

    trigger, offer (B, d) floating point, rows of length 1, row i of both the same style; groups (B,) int64, the style
    of each pair. S = trigger @ offer.T, so S_ij is the cosine of trigger i and offer j.

    Repaired form, for any B:
        mean of max(0, S_ij - S_ii + margin) and max(0, S_ji - S_ii + margin) over all i, j of different groups;
        0 where there are none.
    Published form: one direction, and groups are not looked at:
        mean over the B (B - 1) entries with j != i of max(0, S_ij - S_ii + margin)
    B in place of B (B - 1) would make the loss grow with the batch; a mean by row, then over the rows, is the same.

    Two pairs with S = [[1, 0.9], [0, 0.6]] and margin 0.2:

    >>> trigger = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    >>> offer = torch.tensor([[1.0, 0.0], [0.9, 0.6]])   # the second only nearly of length 1, for round numbers
    >>> two_styles, one_style = torch.tensor([0, 1]), torch.tensor([0, 0])

    Row 0 is short of the margin by 0.9 - 1 + 0.2 = 0.1, row 1 by nothing: (0.1 + 0) / 2.

    >>> round(ppm(trigger, offer, two_styles, 0.2, published=True).item(), 4)
    0.05

    From the offers' side, column 0 lacks nothing, column 1 0.9 - 0.6 + 0.2 = 0.5: (0.1 + 0 + 0 + 0.5) / 4.

    >>> round(ppm(trigger, offer, two_styles, 0.2).item(), 4)
    0.15
    >>> ppm(trigger, offer, one_style, 0.2).item()   # nothing here is a negative
    0.0

    Raises UsageError for a batch of fewer than two pairs in the published form.
    """
    return hinge(trigger @ offer.T, groups, margin, published)


def hinge(scores: Tensor, groups: Tensor, margin: float, published: bool) -> Tensor:
    """The same over given scores (B, B), whose diagonal holds the cosines of what belongs together."""
    own = scores.diagonal()
    rows = (scores - own[:, None] + margin).clamp(min=0)
    if published:
        return _mean_off_diagonal(rows)
    columns = (scores - own[None, :] + margin).clamp(min=0)
    negative = groups[:, None] != groups[None, :]
    return ((rows + columns) * negative).sum() / (2 * negative.sum()).clamp(min=1)


def _mean_off_diagonal(values: Tensor) -> Tensor:
    size = len(values)
    if size < 2:
        raise UsageError(
            f"the published PPM and PDC compare a pair with the others of its batch: {size} found, at least 2 "
            "expected; make train.batch larger or set losses.published=false"
        )
    off_diagonal = ~torch.eye(size, dtype=torch.bool, device=values.device)
    return (values * off_diagonal).sum() / (size * (size - 1))
