"""A SIMULATED click log: shoppers that do not exist, who stay mostly with one style and its category."""

from collections import defaultdict
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import numpy as np

from .days import Listing, Shelf
from .seeds import stream
from .words import synonyms

CLICKS_PER_OFFER = 2.0
STYLE_SHARE, CATEGORY_SHARE = 0.55, 0.35  # the rest is noise
FIRST_DAY = datetime(2026, 1, 1, tzinfo=UTC)


class Click(NamedTuple):
    """One row of the simulated log."""

    user_id: str
    session_id: str
    item_id: str
    query: str | None
    clicked_at: datetime


class _Crowd:
    """Offers with a popularity each, from which one is drawn in proportion to it."""

    def __init__(self, rows: list[Listing], weights: np.ndarray) -> None:
        self.rows, self._bounds = rows, np.cumsum(weights)

    def pick(self, rng: np.random.Generator) -> Listing:
        return self.rows[int(np.searchsorted(self._bounds, rng.random() * self._bounds[-1], side="right"))]


def _crowds(rows: list[Listing], weights: np.ndarray, by: str) -> dict[object, _Crowd]:
    places: defaultdict[object, list[int]] = defaultdict(list)
    for place, row in enumerate(rows):
        places[getattr(row.offer.style, by)].append(place)
    return {key: _Crowd([rows[at] for at in found], weights[found]) for key, found in places.items()}


def simulated_clicks(shelf: Shelf, seed: int, day: int) -> list[Click]:
    """The simulated log of one day, about 20 clicks for every 10 offers, in order of session and time."""
    rng = stream(seed, "clicks", day)
    rows = list(shelf.listings.values())
    # Zipf-like: the n-th most popular offer is wanted 1 / (n + 20) ** 0.8 as often.
    weights = 1.0 / (rng.permutation(len(rows)) + 20.0) ** 0.8
    everything = _Crowd(rows, weights)
    styles, kinds = _crowds(rows, weights, "number"), _crowds(rows, weights, "kind")
    clicks: list[Click] = []
    session = 0
    while len(clicks) < CLICKS_PER_OFFER * len(rows):
        wish = everything.pick(rng)
        crowds = (styles[wish.offer.style.number], kinds[wish.offer.style.kind], everything)
        clicks += _session(wish, crowds, rng, f"d{day:04d}-s{session:06d}", day)
        session += 1
    return clicks


def _session(wish: Listing, crowds: tuple[_Crowd, ...], rng: np.random.Generator, name: str, day: int) -> list[Click]:
    query = _query(wish, rng) if rng.random() < 0.4 else None
    user = f"shopper-{int(rng.integers(10**6)):06d}"
    start = FIRST_DAY + timedelta(days=day - 1, seconds=int(rng.integers(80_000)))
    steps = rng.choice(
        3, size=int(rng.integers(2, 9)), p=(STYLE_SHARE, CATEGORY_SHARE, 1 - STYLE_SHARE - CATEGORY_SHARE)
    )
    times = np.cumsum(rng.integers(4, 120, len(steps)))
    picks = [crowds[step].pick(rng) for step in steps]
    return [
        Click(user, name, row.offer.item_id, query, start + timedelta(seconds=int(after)))
        for row, after in zip(picks, times, strict=True)
    ]


def _query(wish: Listing, rng: np.random.Generator) -> str:
    offer, language = wish.offer, wish.offer.supplier.language
    noun = str(rng.choice(synonyms("kind", offer.style.kind, language))).lower()
    return f"{synonyms('colour', offer.colour, language)[0]} {noun}" if rng.random() < 0.5 else noun
