"""How the catalogue moves on: which offers appear, change, vanish and come back on which day."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import islice

from .offers import OFFERS_PER_SUPPLIER, Offer, offers
from .seeds import stream

NEW, CONTENT, PRICE, WITHDRAWN, RETURNED = 0.01, 0.01, 0.05, 0.005, 0.0015


@dataclass(frozen=True)
class Listing:
    """An offer as it stands on a day; the counts say how often its title, photo and price have changed."""

    offer: Offer
    updated_day: int
    title_edits: int = 0
    photo_edits: int = 0
    price_edits: int = 0


@dataclass(frozen=True)
class DayChanges:
    """Item ids by what happened to them on a day; no id is in two of the sets."""

    new: frozenset[str] = frozenset()
    content_changed: frozenset[str] = frozenset()
    price_only: frozenset[str] = frozenset()
    withdrawn: frozenset[str] = frozenset()
    returned: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Shelf:
    """The catalogue of one day by serial number; `gone` holds what may come back."""

    listings: dict[int, Listing]
    gone: dict[int, Listing] = field(default_factory=dict)
    changes: DayChanges = DayChanges()


def supplier_count(size: int) -> int:
    """How many suppliers a catalogue of that many offers has: 40 for 3,000."""
    return min(400, max(8, size // OFFERS_PER_SUPPLIER))


@lru_cache(maxsize=4)
def shelf(size: int, seed: int, day: int) -> Shelf:
    """The catalogue of `size` offers after `day` days, moved forward from day 1."""
    stock = offers(seed, supplier_count(size))
    today = Shelf({offer.serial: Listing(offer, 1) for offer in islice(stock, size)})
    for number in range(2, day + 1):
        today = _next_day(today, stock, seed, number)
    return today


def day_changes(size: int, seed: int, day: int) -> DayChanges:
    """What `day` changed against the day before; nothing on day 1."""
    return shelf(size, seed, day).changes


def _next_day(before: Shelf, stock: Iterator[Offer], seed: int, day: int) -> Shelf:
    rng = stream(seed, "day", day)
    living = rng.permutation(list(before.listings)).tolist()
    resting = rng.permutation(list(before.gone)).tolist()

    def take(pool: list[int], share: float) -> list[int]:
        wanted = max(1, round(share * len(living_at_start)))
        return [pool.pop() for _ in range(min(wanted, len(pool)))]

    living_at_start = tuple(living)
    withdrawn, edited, priced = take(living, WITHDRAWN), take(living, CONTENT), take(living, PRICE)
    returned = take(resting, RETURNED)
    fresh = list(islice(stock, max(1, round(NEW * len(living_at_start)))))
    listings = dict(before.listings)
    listings |= {serial: _edited(listings[serial], day) for serial in edited}
    listings |= {serial: _priced(listings[serial], day) for serial in priced}
    listings |= {serial: before.gone[serial] for serial in returned}
    listings |= {offer.serial: Listing(offer, day) for offer in fresh}
    gone = {serial: row for serial, row in before.gone.items() if serial not in returned}
    gone |= {serial: listings.pop(serial) for serial in withdrawn}
    names = {serial: row.offer.item_id for serial, row in (listings | gone).items()}
    sets = [[names[serial] for serial in part] for part in (edited, priced, withdrawn, returned)]
    changes = DayChanges(frozenset(offer.item_id for offer in fresh), *map(frozenset, sets))
    return Shelf(dict(sorted(listings.items())), gone, changes)


def _edited(row: Listing, day: int) -> Listing:
    """A new title or a new photo, whichever the offer has and its number says."""
    titled = row.offer.role == "no_image" or (not row.offer.untitled and row.offer.serial % 2 == 0)
    if titled:
        return replace(row, title_edits=row.title_edits + 1, updated_day=day)
    return replace(row, photo_edits=row.photo_edits + 1, updated_day=day)


def _priced(row: Listing, day: int) -> Listing:
    return replace(row, price_edits=row.price_edits + 1, updated_day=day)
