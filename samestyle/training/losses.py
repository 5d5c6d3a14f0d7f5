"""The weighted sum that training minimises, term by term, each under its own name."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from samestyle.errors import SamestyleError
from samestyle.settings import Losses
from samestyle.training.infonce import infonce
from samestyle.training.lc import lc
from samestyle.training.pdc import pdc
from samestyle.training.ppm import ppm

IDS_SHOWN = 20


def total_loss(
    views: Mapping[str, Tensor],
    groups: Tensor,
    settings: Losses,
    has_text: Tensor | None = None,
    has_image: Tensor | None = None,
    fused_only: bool = False,
) -> dict[str, Tensor]:
    """All terms of weight above 0, already weighted, and their sum "total"; scalars, float32.

    views: trigger_fused, trigger_text, trigger_image, offer_fused, offer_text, offer_image, each (B, d) with rows of
    length 1, or of zeros where the product lacks the modality (offer_text and offer_image are read only where
    losses.single_views is above 0). groups (B,) int64. has_text, has_image (B,) bool: which triggers have a title
    and a photo; None: those whose row is not zero. fused_only: the views of a lone side are constants, and so are the
    terms between these, and LC in its repaired form; they are left out.

    A row without a modality takes no part in the terms of that view, and one with a single modality none in PDC and
    LC, where its view and its fused vector are the same. With d = 1 and nothing but PPM, margin 0.2:

    >>> same = torch.ones(2, 1)
    >>> views = {f"{side}_{view}": same for side in ("trigger", "offer") for view in ("fused", "text", "image")}
    >>> terms = total_loss(views, torch.tensor([0, 1]), Losses(ppm=2, pdc=0, lc=0, infonce=0, single_views=0))
    >>> {name: round(value.item(), 4) for name, value in terms.items()}
    {'ppm m-m': 0.4, 'ppm t-m': 0.4, 'ppm i-m': 0.4, 'total': 1.2}

    Raises UsageError in the published form for batches too small for it.
    """
    if settings.published:  # which knew no other losses
        settings = settings.model_copy(update={"infonce": 0.0, "single_views": 0.0})
    if fused_only and not settings.published:
        settings = settings.model_copy(update={"lc": 0.0})
    with torch.autocast(groups.device.type, enabled=False):
        full = {name: view.float() for name, view in views.items()}
        text = _present(full["trigger_text"], has_text)
        image = _present(full["trigger_image"], has_image)
        terms = {**_matching(full, groups, settings, text, image), **_own_product(full, groups, settings, text & image)}
        if not fused_only:
            terms |= _single_views(full, groups, settings, text, image)
        return {**terms, "total": sum(terms.values(), start=full["trigger_fused"].sum() * 0)}


def check_finite(terms: Mapping[str, Tensor], ids: Sequence[str]) -> None:
    """Raise SamestyleError where a term is not a finite number; `ids` are the batch's, the first 20 are named."""
    broken = {name: value.item() for name, value in terms.items() if not torch.isfinite(value)}
    if broken:
        named = ", ".join(map(str, ids[:IDS_SHOWN])) + (f" and {len(ids) - IDS_SHOWN} more" * (len(ids) > IDS_SHOWN))
        raise SamestyleError(
            f"the loss is not finite: {', '.join(f'{name} is {value}' for name, value in broken.items())}, expected "
            f"finite numbers; the batch's items: {named}. Look at these, or lower train.learning_rate"
        )


def _present(view: Tensor, mask: Tensor | None) -> Tensor:
    found = view.ne(0).any(dim=1)
    return found if mask is None else found & mask.bool()


def _matching(
    views: Mapping[str, Tensor], groups: Tensor, settings: Losses, text: Tensor, image: Tensor
) -> dict[str, Tensor]:
    """PPM and InfoNCE of each view of the triggers with the fused offers."""
    everyone = torch.ones_like(text)
    sides = {"m-m": ("trigger_fused", everyone), "t-m": ("trigger_text", text), "i-m": ("trigger_image", image)}
    losses: dict[str, tuple[float, Callable[..., Tensor], tuple]] = {
        "ppm": (settings.ppm, ppm, (settings.margin, settings.published)),
        "infonce": (settings.infonce, infonce, (settings.temperature,)),
    }
    return {
        f"{name} {direction}": weight * loss(views[side][rows], views["offer_fused"][rows], groups[rows], *further)
        for name, (weight, loss, further) in losses.items()
        if weight
        for direction, (side, rows) in sides.items()
    }


def _own_product(views: Mapping[str, Tensor], groups: Tensor, settings: Losses, both: Tensor) -> dict[str, Tensor]:
    """PDC and LC of either view with the fused trigger, over the rows that have both."""
    trigger, offer, terms = views["trigger_fused"][both], views["offer_fused"], {}
    for letter, side in (("t", "trigger_text"), ("i", "trigger_image")):
        view = views[side][both]
        if settings.pdc:
            terms[f"pdc {letter}"] = settings.pdc * pdc(
                view, trigger, groups[both], settings.margin, settings.published
            )
        if settings.lc:
            terms[f"lc {letter}"] = settings.lc * lc(view, trigger, offer, settings.lc_margin, settings.published)
    return terms


def _single_views(
    views: Mapping[str, Tensor], groups: Tensor, settings: Losses, text: Tensor, image: Tensor
) -> dict[str, Tensor]:
    """InfoNCE between a photo and its title; PPM and InfoNCE between photo and photo, and between title and title."""
    terms, both = {}, text & image
    if settings.infonce:
        aligned = views["trigger_image"][both], views["trigger_text"][both]
        terms["infonce i-t"] = settings.infonce * infonce(*aligned, groups[both], settings.temperature)
    if not settings.single_views:
        return terms
    for name, view, rows in (("i-i", "image", image), ("t-t", "text", text)):
        rows = rows & _present(views[f"offer_{view}"], None)
        pair = views[f"trigger_{view}"][rows], views[f"offer_{view}"][rows]
        terms[f"single {name}"] = settings.single_views * ppm(*pair, groups[rows], settings.margin)
        if settings.infonce:
            weight = settings.single_views * settings.infonce
            terms[f"infonce {name}"] = weight * infonce(*pair, groups[rows], settings.temperature)
    return terms
