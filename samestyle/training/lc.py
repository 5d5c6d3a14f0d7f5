"""LC, locality consistency: a photo or a title alone sees nearby offers as near as the whole product does."""

from torch import Tensor

from samestyle.errors import UsageError


def lc(view: Tensor, trigger: Tensor, offer: Tensor, margin: float, published: bool = False, k: int = 10) -> Tensor:
    """Squared difference of cosines, over the k offers nearest to each fused trigger; returns a scalar.

    view, trigger (B, d) floating point, rows of length 1: one view and the fused vector of the same products; offer
    (N, d), the batch's offers. With x, t and o for them:
        mean over i, and over the k offers j of largest cos(t_i, o_j), of
        max(0, (cos(t_i, o_j) - cos(x_i, o_j))^2 - margin)
    The margin is on the squared difference: 0.01 lets cosines differ by 0.1.

    Repaired form: t and o are constants, so that only the view moves and the fused vectors are not drawn to what a
    single modality can see; k = min(k, N); 0 where there are no rows or no offers. Published form: gradients
    reach all three.

    cos(t, o) = (1, 0.8) and cos(x, o) = (0.6, 0.6): squares 0.16 and 0.04, above the margin by 0.15 and 0.03.

    >>> import torch
    >>> trigger, view = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.6, 0.2]])   # not of length 1, for round numbers
    >>> offer = torch.tensor([[1.0, 0.0], [0.8, 0.6]])
    >>> round(lc(view, trigger, offer, 0.01, k=1).item(), 4)
    0.15
    >>> round(lc(view, trigger, offer, 0.01).item(), 4)
    0.09

    Raises UsageError for fewer than k offers in the published form.
    """
    if published and len(offer) < k:
        raise UsageError(
            f"the published LC looks at the {k} offers nearest to a trigger: {len(offer)} found in the batch; "
            f"set train.batch to at least {k}, or losses.published=false"
        )
    if not published:
        trigger, offer = trigger.detach(), offer.detach()
    fused = trigger @ offer.T
    nearest = fused.topk(min(k, len(offer)), dim=1).indices
    difference = fused.gather(1, nearest) - (view @ offer.T).gather(1, nearest)
    return (difference.square() - margin).clamp(min=0).sum() / max(nearest.numel(), 1)
