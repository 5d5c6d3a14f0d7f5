"""What the demo catalogue contains, from its plan alone: nothing is drawn here."""

import re
from collections import Counter, defaultdict
from functools import cache
from itertools import combinations

import pytest

from samestyle.demo.catalogue import catalogue_table, clicks_table, photo_of
from samestyle.demo.days import Listing, day_changes, shelf
from samestyle.demo.offers import BROKEN, SHARES
from samestyle.demo.words import KINDS

SIZE, SEED = 3000, 7


@cache
def by_id(day: int) -> dict[str, dict]:
    return {row["item_id"]: row for row in catalogue_table(SIZE, day, SEED).to_pylist()}


@pytest.fixture(scope="module")
def listings() -> list[Listing]:
    return list(shelf(SIZE, SEED, 1).listings.values())


@pytest.fixture(scope="module")
def rows() -> list[dict]:
    return list(by_id(1).values())


def test_counts(rows: list[dict]) -> None:
    assert len({row["item_id"] for row in rows}) == len(rows) == SIZE
    assert len({row["style_group"] for row in rows}) == pytest.approx(900, rel=0.02)
    assert len({row["supplier_id"] for row in rows}) == 40
    assert {row["category"].count("/") for row in rows} == {2}
    assert len({row["category"] for row in rows}) == len(KINDS) == 16


@pytest.mark.parametrize(("role", "share"), SHARES.items())
def test_each_role_has_its_share(listings: list[Listing], role: str, share: float) -> None:
    found = sum(listing.offer.role == role for listing in listings)
    assert found >= 1
    assert found == pytest.approx(share * SIZE, abs=4)


def test_about_one_percent_of_photos_is_broken(listings: list[Listing]) -> None:
    broken = sum(BROKEN.get(listing.offer.role, False) for listing in listings)
    assert 0.007 < broken / SIZE < 0.013


def test_missing_columns_match_the_roles(listings: list[Listing], rows: list[dict]) -> None:
    for listing, row in zip(listings, rows, strict=True):
        assert (row["title"] is None) == listing.offer.untitled
        assert (row["image_uri"] is None) == (listing.offer.role == "no_image")


def test_shared_photos_come_from_another_supplier_of_the_style(listings: list[Listing]) -> None:
    shared = [listing.offer for listing in listings if listing.offer.role == "shared_photo"]
    for offer in shared:
        assert offer.source is not None
        assert offer.source.style == offer.style
        assert offer.source.supplier != offer.supplier


def test_near_duplicates_repeat_an_offer_of_their_supplier(listings: list[Listing], rows: list[dict]) -> None:
    titles = {row["item_id"]: row["title"] for row in rows}
    for listing in (listing for listing in listings if listing.offer.role == "near_duplicate"):
        copy, source = listing.offer, listing.offer.source
        assert source is not None
        assert copy.supplier == source.supplier
        assert photo_of(listing) == photo_of(Listing(source, 1))
        assert titles[copy.item_id].startswith(titles[source.item_id])


def test_word_overlap_of_true_pairs_is_low(rows: list[dict]) -> None:
    styles = defaultdict(list)
    for row in rows:
        if row["title"]:
            styles[row["style_group"]].append((row["supplier_id"], set(re.findall(r"\w+", row["title"].lower()))))
    pairs = [(a, b) for group in styles.values() for a, b in combinations(group, 2) if a[0] != b[0]]
    overlaps = [len(a & b) / len(a | b) for (_, a), (_, b) in pairs]
    assert 0.15 < sum(overlaps) / len(overlaps) < 0.28


def test_styles_of_a_kind_share_moulds(listings: list[Listing]) -> None:
    styles = {listing.offer.style for listing in listings}
    moulds = Counter((style.kind, style.form) for style in styles)
    assert len(styles) / len(moulds) > 3


def test_day_changes_add_up() -> None:
    days = {day: set(by_id(day)) for day in (1, 2, 3, 4)}
    for day in (2, 3, 4):
        changes = day_changes(SIZE, SEED, day)
        assert days[day] - days[day - 1] == changes.new | changes.returned
        assert days[day - 1] - days[day] == changes.withdrawn
        expected = {"new": 30, "content_changed": 30, "price_only": 150, "withdrawn": 15}
        assert {name: len(getattr(changes, name)) for name in expected} == pytest.approx(expected, rel=0.05)


def test_withdrawn_offers_come_back_as_they_were() -> None:
    before, after = by_id(2), by_id(3)
    withdrawn, returned = day_changes(SIZE, SEED, 2).withdrawn, day_changes(SIZE, SEED, 3).returned
    assert returned
    assert returned <= withdrawn
    first = by_id(1)
    assert all(after[name] == first[name] and name not in before for name in returned)


def test_only_what_a_day_changed_differs() -> None:
    before, after, changes = by_id(4), by_id(5), day_changes(SIZE, SEED, 5)
    content = ("title", "image_uri", "image_version")
    for name in before.keys() & after.keys():
        old, new = before[name], after[name]
        assert (old != new) == (name in changes.content_changed | changes.price_only)
        assert any(old[field] != new[field] for field in content) == (name in changes.content_changed)
        assert (old["price"] != new["price"]) == (name in changes.price_only)
        assert (old["updated_at"] != new["updated_at"]) == (old != new)


def test_a_new_photo_is_a_new_file_and_version() -> None:
    before, after = by_id(1), by_id(2)
    moved = [name for name in before.keys() & after.keys() if before[name]["image_uri"] != after[name]["image_uri"]]
    assert 5 < len(moved) < 30
    assert all(before[name]["image_version"] != after[name]["image_version"] for name in moved)


def test_day_one_does_not_depend_on_later_days() -> None:
    shelf.cache_clear()
    later = catalogue_table(300, 4, SEED)
    shelf.cache_clear()
    assert catalogue_table(300, 4, SEED) == later
    assert catalogue_table(300, 1, SEED).num_rows == 300


def test_simulated_sessions_stay_with_a_style_and_its_category(rows: list[dict]) -> None:
    items = {row["item_id"]: row for row in rows}
    sessions = defaultdict(list)
    for click in clicks_table(SIZE, 1, SEED).to_pylist():
        sessions[click["session_id"]].append(items[click["item_id"]])
    assert {len(clicked) for clicked in sessions.values()} <= set(range(2, 9))
    pairs = [pair for clicked in sessions.values() for pair in combinations(clicked, 2)]
    same = {field: sum(a[field] == b[field] for a, b in pairs) / len(pairs) for field in ("style_group", "category")}
    assert 0.25 < same["style_group"] < 0.5
    assert 0.7 < same["category"] < 0.95


def test_simulated_clicks_are_skewed_and_sometimes_searched() -> None:
    clicks = clicks_table(SIZE, 1, SEED)
    assert clicks.num_rows == pytest.approx(2 * SIZE, rel=0.01)
    counts = sorted(Counter(clicks["item_id"].to_pylist()).values(), reverse=True)
    assert sum(counts[: SIZE // 10]) > 0.25 * clicks.num_rows
    assert 0.5 < clicks["query"].null_count / clicks.num_rows < 0.7
    assert b"SIMULATED" in clicks.schema.metadata[b"about"]
