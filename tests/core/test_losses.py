"""Every loss: worked examples by hand, the published form against numpy alone, masks, small batches, gradients."""

import doctest

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from samestyle.errors import SamestyleError, UsageError
from samestyle.settings import Losses
from samestyle.training import infonce as infonce_page
from samestyle.training import lc as lc_page
from samestyle.training import losses as losses_page
from samestyle.training import pdc as pdc_page
from samestyle.training import ppm as ppm_page
from samestyle.training.infonce import infonce
from samestyle.training.lc import lc
from samestyle.training.losses import check_finite, total_loss
from samestyle.training.pdc import pdc
from samestyle.training.ppm import ppm

PAGES = (ppm_page, pdc_page, lc_page, infonce_page, losses_page)
SIDES = [f"{side}_{view}" for side in ("trigger", "offer") for view in ("fused", "text", "image")]


def unit(rows: int, dim: int = 5, seed: int = 0) -> torch.Tensor:
    return F.normalize(torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed)))


def batch(rows: int, dim: int = 5) -> dict[str, torch.Tensor]:
    return {name: unit(rows, dim, seed) for seed, name in enumerate(SIDES)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.__name__)
def test_the_worked_examples_of_the_docstrings(page):
    done = doctest.testmod(page)
    assert done.attempted > 0
    assert done.failed == 0


# The published form once more, in plain loops over numpy.


def published_hinge(left: np.ndarray, right: np.ndarray, margin: float) -> float:
    n, total = len(left), 0.0
    for i in range(n):
        own = float(np.dot(left[i], right[i]))
        total += sum(max(0.0, float(np.dot(left[i], right[j])) - own + margin) for j in range(n) if j != i)
    return total / (n * (n - 1))


def published_lc(view: np.ndarray, trigger: np.ndarray, offer: np.ndarray, margin: float) -> float:
    terms = []
    for x, t in zip(view, trigger, strict=True):
        nearest = sorted(range(len(offer)), key=lambda j: -float(np.dot(t, offer[j])))[:10]
        terms += [max(0.0, (float(np.dot(t, offer[j])) - float(np.dot(x, offer[j]))) ** 2 - margin) for j in nearest]
    return sum(terms) / len(terms)


@pytest.mark.parametrize("rows", [10, 17])
def test_the_published_form_is_that_of_an_independent_version(rows):
    views = batch(rows)
    plain = {name: view.numpy().astype(np.float64) for name, view in views.items()}
    settings = Losses(published=True, margin=0.3, lc_margin=0.02)
    terms = total_loss(views, torch.zeros(rows, dtype=torch.int64), settings)
    expected = {
        **{
            f"ppm {letter}-m": published_hinge(plain[f"trigger_{view}"], plain["offer_fused"], 0.3)
            for letter, view in (("m", "fused"), ("t", "text"), ("i", "image"))
        },
        **{
            f"pdc {letter}": published_hinge(plain[f"trigger_{view}"], plain["trigger_fused"], 0.3)
            for letter, view in (("t", "text"), ("i", "image"))
        },
        **{
            f"lc {letter}": published_lc(plain[f"trigger_{view}"], plain["trigger_fused"], plain["offer_fused"], 0.02)
            for letter, view in (("t", "text"), ("i", "image"))
        },
    }
    assert all(value > 0.01 for value in expected.values())
    expected["total"] = sum(expected.values())
    assert {name: value.item() for name, value in terms.items()} == pytest.approx(expected, abs=1e-6)


def test_the_repaired_hinge_is_the_mean_over_real_negatives_in_both_directions():
    trigger, offer = unit(6, seed=1), unit(6, seed=2)
    groups = torch.tensor([0, 0, 1, 2, 2, 3])
    scores, hinges = (trigger @ offer.T).numpy(), []
    for i in range(6):
        for j in range(6):
            if groups[i] != groups[j]:
                hinges += [max(0, scores[i, j] - scores[i, i] + 0.2), max(0, scores[j, i] - scores[i, i] + 0.2)]
    assert ppm(trigger, offer, groups, 0.2).item() == pytest.approx(np.mean(hinges), abs=1e-6)
    assert pdc(trigger, offer, groups, 0.2).item() == pytest.approx(np.mean(hinges), abs=1e-6)


def test_two_pairs_of_one_style_are_not_pushed_apart():
    trigger, offer = unit(4, seed=1).requires_grad_(), unit(4, seed=2)
    ppm(trigger, offer, torch.tensor([0, 0, 0, 0]), 0.2).backward()
    assert trigger.grad.abs().sum() == 0
    alone = ppm(unit(2), unit(2, seed=3), torch.tensor([0, 1]), 0.2)
    twice = [torch.cat([rows, rows]) for rows in (unit(2), unit(2, seed=3))]
    assert ppm(*twice, torch.tensor([0, 1, 0, 1]), 0.2).item() == pytest.approx(alone.item(), abs=1e-6)


def test_published_ppm_does_push_them_apart():
    trigger = unit(4, seed=1).requires_grad_()
    ppm(trigger, unit(4, seed=2), torch.tensor([0, 0, 0, 0]), 0.2, published=True).backward()
    assert trigger.grad.abs().sum() > 0


@pytest.mark.parametrize("rows", [0, 1, 2, 3, 9])
def test_the_repaired_form_takes_any_batch(rows):
    views = {name: view.requires_grad_() for name, view in batch(rows).items()}
    settings = Losses(infonce=1, single_views=1)
    terms = total_loss(views, torch.arange(rows), settings)
    check_finite(terms, [])
    terms["total"].backward()
    assert torch.isfinite(views["trigger_text"].grad).all()
    if rows == 1:
        assert terms["ppm m-m"].item() == terms["pdc t"].item() == terms["infonce m-m"].item() == 0


@pytest.mark.parametrize(("rows", "found"), [(1, "1 found"), (9, "9 found")])
def test_the_published_form_says_which_batch_it_needs(rows, found):
    with pytest.raises(UsageError, match=rf"{found}.*losses\.published"):
        total_loss(batch(rows), torch.arange(rows), Losses(published=True))


def test_lc_moves_the_view_alone_but_in_the_published_form_all_three():
    for published in (False, True):
        view, trigger, offer = (unit(12, seed=seed).requires_grad_() for seed in range(3))
        lc(view, trigger, offer, 0.0, published).backward()
        assert view.grad.abs().sum() > 0
        assert (trigger.grad is not None, offer.grad is not None) == (published, published)


def test_lc_looks_at_the_nearest_offers_only():
    trigger = torch.tensor([[1.0, 0.0]])
    offer = torch.tensor([[1.0, 0.0]] * 10 + [[-1.0, 0.0]])  # the last is the eleventh
    view = torch.tensor([[0.5, 0.0]])
    assert lc(view, trigger, offer, 0.05).item() == pytest.approx(0.25 - 0.05)
    assert lc(view, trigger, offer[:10], 0.05, published=True).item() == pytest.approx(0.25 - 0.05)


def test_infonce_is_cross_entropy_without_the_negatives_of_the_same_style():
    view, offer = unit(3, seed=1), unit(3, seed=2)
    logits = (view @ offer.T / 0.1).double().numpy()
    kept = [[0, 1, 2], [0, 1], [0, 2]]  # pairs 1 and 2 are one style

    def cost(scores: np.ndarray) -> float:
        return float(np.mean([np.log(np.exp(scores[i, kept[i]]).sum()) - scores[i, i] for i in range(3)]))

    expected = (cost(logits) + cost(logits.T)) / 2
    assert infonce(view, offer, torch.tensor([0, 1, 1]), 0.1).item() == pytest.approx(expected, abs=1e-5)


def test_rows_without_a_modality_take_no_part_in_its_terms():
    views, groups = batch(6), torch.arange(6)
    for side in ("trigger", "offer"):
        views[f"{side}_text"][4:] = 0
        views[f"{side}_image"][0] = 0
    terms = total_loss(views, groups, Losses(single_views=0.5, infonce=0.2))
    titled, pictured, both = slice(0, 4), slice(1, 6), slice(1, 4)
    t, i, m, o = (views[name] for name in ("trigger_text", "trigger_image", "trigger_fused", "offer_fused"))
    expected = {
        "ppm m-m": ppm(m, o, groups, 0.2),
        "ppm t-m": ppm(t[titled], o[titled], groups[titled], 0.2),
        "ppm i-m": ppm(i[pictured], o[pictured], groups[pictured], 0.2),
        "pdc t": pdc(t[both], m[both], groups[both], 0.2),
        "pdc i": pdc(i[both], m[both], groups[both], 0.2),
        "lc t": lc(t[both], m[both], o, 0.01),
        "lc i": lc(i[both], m[both], o, 0.01),
        "infonce m-m": 0.2 * infonce(m, o, groups, 0.1),
        "infonce t-m": 0.2 * infonce(t[titled], o[titled], groups[titled], 0.1),
        "infonce i-m": 0.2 * infonce(i[pictured], o[pictured], groups[pictured], 0.1),
        "infonce i-t": 0.2 * infonce(i[both], t[both], groups[both], 0.1),
        "infonce i-i": 0.1 * infonce(i[pictured], views["offer_image"][pictured], groups[pictured], 0.1),
        "infonce t-t": 0.1 * infonce(t[titled], views["offer_text"][titled], groups[titled], 0.1),
        "single i-i": 0.5 * ppm(i[pictured], views["offer_image"][pictured], groups[pictured], 0.2),
        "single t-t": 0.5 * ppm(t[titled], views["offer_text"][titled], groups[titled], 0.2),
    }
    expected["total"] = sum(expected.values())
    assert {name: value.item() for name, value in terms.items()} == pytest.approx(
        {name: value.item() for name, value in expected.items()}, abs=1e-6
    )


def test_masks_say_which_rows_have_a_modality():
    views, groups = batch(4), torch.arange(4)
    hidden = {**views, "trigger_text": views["trigger_text"].clone()}
    hidden["trigger_text"][1] = 0
    by_mask = total_loss(views, groups, Losses(), has_text=torch.tensor([True, False, True, True]))
    by_zero = total_loss(hidden, groups, Losses())
    assert {name: value.item() for name, value in by_mask.items()} == pytest.approx(
        {name: value.item() for name, value in by_zero.items()}
    )


def test_a_weight_of_zero_leaves_a_loss_out():
    terms = total_loss(batch(4), torch.arange(4), Losses(ppm=0, pdc=3, lc=0, infonce=0, single_views=0))
    once = total_loss(batch(4), torch.arange(4), Losses())
    assert set(terms) == {"pdc t", "pdc i", "total"}
    assert terms["pdc t"].item() == pytest.approx(3 * once["pdc t"].item())
    assert (
        total_loss(batch(4), torch.arange(4), Losses(ppm=0, pdc=0, lc=0, infonce=0, single_views=0))["total"].item()
        == 0
    )


def test_the_published_form_knows_no_other_losses():
    terms = total_loss(batch(12), torch.arange(12), Losses(published=True))
    assert set(terms) == {"ppm m-m", "ppm t-m", "ppm i-m", "pdc t", "pdc i", "lc t", "lc i", "total"}


def test_half_precision_vectors_give_float32_losses():
    terms = total_loss({name: view.bfloat16() for name, view in batch(4).items()}, torch.arange(4), Losses())
    assert {value.dtype for value in terms.values()} == {torch.float32}


def test_a_loss_that_is_not_finite_names_its_terms_and_items():
    terms = {"ppm m-m": torch.tensor(0.1), "lc t": torch.tensor(float("nan")), "total": torch.tensor(float("inf"))}
    ids = [f"item-{number}" for number in range(23)]
    with pytest.raises(
        SamestyleError, match=r"lc t is nan, total is inf.*item-0, item-1,.*item-19 and 3 more"
    ) as error:
        check_finite(terms, ids)
    assert "ppm" not in str(error.value)
    assert "item-20" not in str(error.value)
    assert error.value.exit_code == 1
    check_finite({"ppm m-m": torch.tensor(0.1)}, ids)
