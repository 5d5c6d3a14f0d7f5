"""Lists of neighbours, night after night, against a brute-force join of the day's items."""

import dataclasses
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest

from samestyle.errors import RefusedError
from samestyle.evaluation.thresholds import FIT, SHOW, JudgedPairs, curve, fit_threshold, point
from samestyle.release.manifest import Thresholds
from samestyle.settings import Neighbours, load_settings
from samestyle.tables import schemas
from samestyle.tables.neighbours import Plan, write_neighbours
from samestyle.tables.thresholds import choose_thresholds, half_of
from tests.spark.test_nights import Item, Shop, vector
from udfs.search import candidate_finder, item_reader

BANDS = Thresholds(same_style=0.8, similar=0.3, duplicate=0.9)
Lists = dict[tuple[str, str], list[str]]  # item, band -> neighbours as they are ranked


class Market(Shop):
    """A shop of several suppliers and categories, whose nights list neighbours as well."""

    settings = (
        "tables.format=parquet",
        "modules={search: {views: [fused], shard_rows: 100, m: 8, ef_construction: 60}, homepage: null, history: null}",
        "neighbours.k=4",
        "neighbours.keep=8",
    )
    bands = BANDS

    def list_neighbours(self) -> tuple[Lists, Plan]:
        """Tonight's lists as they are shown, and what was searched for them. The parent's are left as they were."""
        parent = self.parent
        made = self.build()
        night = self.last
        night.parent = parent
        efs = [400 for _ in self.records]
        (plan,) = write_neighbours(night, self.records, efs, self.bands, candidate_finder, item_reader)
        indexes = tuple(dataclasses.replace(index, thresholds=self.bands) for index in made.indexes)
        self.parent = dataclasses.replace(made, indexes=indexes)
        rows = night.warehouse.neighbours.read().where(f"release_id = '{night.release_id}'").orderBy("rank").collect()
        lists: Lists = {}
        for row in rows:
            if row["rank"] <= night.settings.neighbours.k:
                lists.setdefault((row["item_id"], row["band"]), []).append(row["neighbour_id"])
        return lists, plan

    def night(self):
        self.last = super().night()
        self.last.lease = SimpleNamespace(check=lambda: None)
        return self.last


def brute_force(items: dict[str, Item], bands: Thresholds, limits: Neighbours) -> Lists:
    """Every item against every other, and a sort."""
    ids = sorted(items)
    vectors = np.stack([vector(items[item_id].content, "fused") for item_id in ids])
    lists: Lists = {}
    for place, (item_id, scores) in enumerate(zip(ids, vectors @ vectors.T, strict=True)):
        own, seen = items[item_id], Counter()
        found: dict[str, list[tuple[bool, float, str]]] = {}
        for other in sorted(set(range(len(ids))) - {place}, key=lambda n: (-round(float(scores[n]), 5), ids[n])):
            it = items[ids[other]]
            band = bands.band(float(scores[other]), it.supplier is not None and it.supplier == own.supplier)
            if band and (band != "similar" or it.category == own.category):
                seen[band, it.supplier] += 1
                further = it.supplier is not None and seen[band, it.supplier] > limits.supplier_max
                found.setdefault(band, []).append((further, -round(float(scores[other]), 5), ids[other]))
        for band, entries in found.items():
            lists[item_id, band] = [name for *_, name in sorted(entries)[: limits.k]]
    return lists


def offers(first: int, count: int) -> dict[str, Item]:
    """Contents in clusters of 50; every tenth item shares a content with another, every seventh has no supplier."""
    return {
        f"item{n:04d}": Item(
            n - 1 if n % 10 == 9 else n,
            supplier=None if n % 7 == 0 else f"supplier{n % 5}",
            category=None if n % 50 == 49 else f"category{n // 50 % 2}",
        )
        for n in range(first, first + count)
    }


@pytest.fixture
def market(spark, tmp_path) -> Market:
    made = Market(spark, tmp_path)
    made.items = offers(0, 400)
    return made


def check(market: Market, lists: Lists) -> None:
    expected = brute_force(market.items, market.bands, market.last.settings.neighbours)
    assert {band for _, band in expected} == {"same_style", "similar", "duplicate"}
    assert lists == expected


def test_lists_are_those_of_a_brute_force_join_night_after_night(market):
    lists, plan = market.list_neighbours()
    check(market, lists)
    assert (plan.searches, plan.triggers, plan.searched, plan.reason) == (360, 400, 400, None)

    for name in [f"item{n:04d}" for n in range(3, 400, 60)]:
        del market.items[name]
    market.items |= offers(400, 5)
    market.items["item0010"] = Item(77, supplier="supplier1", category="category1")  # another content
    market.items["item0011"] = dataclasses.replace(market.items["item0011"], supplier="supplier4")
    market.items["item0012"] = dataclasses.replace(market.items["item0012"], price=3.0)  # decides nothing
    lists, plan = market.list_neighbours()
    check(market, lists)
    assert (plan.triggers, plan.reason) == (398, None)
    assert 7 <= plan.searched < 120
    assert "lists updated" in str(plan)

    lists, plan = market.list_neighbours()
    check(market, lists)
    assert (plan.searches, plan.searched) == (0, 0)

    market.bands = Thresholds(same_style=0.7, similar=0.3, duplicate=0.9)
    lists, plan = market.list_neighbours()
    check(market, lists)
    assert plan.searched == plan.triggers
    assert plan.reason == "the threshold of same_style was 0.8, is 0.7"

    market.words = ("neighbours.searches_max=3",)
    market.items |= offers(405, 4)
    with pytest.raises(RefusedError, match=r"need 4 searches, neighbours\.searches_max allows 3"):
        market.list_neighbours()


def styled_pairs(market: Market) -> JudgedPairs:
    """Every item of known style and every one of another supplier, as far as a score tells anything."""
    ids = sorted(name for name, item in market.items.items() if item.style)
    items = [market.items[name] for name in ids]
    vectors = np.stack([vector(item.content, "fused") for item in items])
    scores, styles = vectors @ vectors.T, np.array([item.style for item in items])
    suppliers = np.array([item.supplier or f"unknown of {n}" for n, item in enumerate(items)])
    asked, other = np.nonzero((scores >= 0.3) & (suppliers[:, None] != suppliers) & ~np.eye(len(ids), dtype=bool))
    names = market.spark.createDataFrame([(style,) for style in sorted(set(styles.tolist()))], "style string")
    halves = {row["style"]: row["half"] for row in names.select("style", half_of("style").alias("half")).collect()}
    half = np.array([halves[style] for style in styles])
    return JudgedPairs(scores[asked, other], styles[asked] == styles[other], asked, half[asked])


def test_thresholds_follow_from_true_styles_and_from_labelled_pairs(market):
    market.items = {
        name: dataclasses.replace(item, style=f"style{item.content // 10}" if n % 9 else None)
        for n, (name, item) in enumerate(market.items.items())
    }
    market.words = ("neighbours.precision=0.3",)
    market.build()
    night = market.last
    night.run.write("embed", night.run.required("embed") | {"mapped": ["style_group"]})
    bands = choose_thresholds(night, market.records, [400], candidate_finder)
    judged = styled_pairs(market)
    fit, show = judged.of(FIT), judged.of(SHOW)
    wanted = fit_threshold(curve(fit, 0.3), 0.3)
    calibration = bands.thresholds.calibration
    assert bands.thresholds.calibrated
    assert bands.thresholds.same_style == wanted
    assert 0.3 < wanted < 0.99
    assert (calibration.labels, calibration.precision) == ("styles of the catalogue", 0.3)
    assert (calibration.fitted.pairs, calibration.shown.pairs) == (point(fit, wanted).pairs, point(show, wanted).pairs)
    assert calibration.shown.value == pytest.approx(point(show, wanted).precision)
    assert calibration.shown.low <= calibration.shown.value <= calibration.shown.high

    pairs = [(f"item{n:04d}", f"item{n + 1:04d}", None, None, None, n % 2, n, ("validation", "test")[n // 2 % 2])
             for n in range(300)]  # fmt: skip
    night.warehouse.pairs.overwrite(market.spark.createDataFrame(pairs, schemas.PAIRS), "v1")
    bands = choose_thresholds(night, market.records, [400], candidate_finder)
    assert "the labelled pairs of table pairs" in bands.sentence

    night.settings = load_settings("demo", None, ["neighbours.same_style_min=0.77"])
    bands = choose_thresholds(night, market.records, [400], candidate_finder)
    assert (bands.thresholds.same_style, bands.thresholds.calibrated, bands.curve) == (0.77, False, ())


def missing_share(market: Market, lists: Lists) -> float:
    """How much of a brute-force join's lists is not in these."""
    expected = brute_force(market.items, market.bands, market.last.settings.neighbours)
    missing = sum(len(set(names) - set(lists.get(key, ()))) for key, names in expected.items())
    return missing / sum(map(len, expected.values()))


@pytest.mark.soak
def test_after_thirty_nights_the_lists_are_within_half_a_point_of_a_full_search(market):
    """1 % new and 1 % gone a night, of 5,000 items; a night searches little more than what is new."""
    market.words = ("modules.search.shard_rows=1000", "neighbours.k=10", "neighbours.keep=20")
    market.items = offers(0, 5000)
    first = missing_share(market, market.list_neighbours()[0])
    draw, searches = np.random.default_rng(1), []
    for night in range(30):
        for name in draw.choice(sorted(market.items), size=50, replace=False):
            del market.items[name]
        market.items |= offers(5000 + 50 * night, 50)
        lists, plan = market.list_neighbours()
        assert plan.reason is None
        searches.append(plan.searches)
    last = missing_share(market, lists)
    print(f"missing of a brute-force join's neighbours: {first:.5f} the first night, {last:.5f} the last")
    print(f"{np.mean(searches) / 5000:.4f} of all searched a night")
    assert first <= 0.005
    assert last <= 0.005
    assert np.mean(searches) < 0.05 * 5000
