"""The planner of a night's shards: small cases by eye, then thousands of nights that must keep its promises."""

import math
import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from samestyle.index.segments import Filling, Limits, Segment, SegmentPlan, plan_segments

LIMITS = Limits(rows=100, dead_max=0.3, dissolve_max=0.03)


def segment(number, nodes=100, living=None, frozen=True, key=""):
    return Segment(number, key, nodes, nodes if living is None else living, frozen)


def numbers(segments):
    return [s.number for s in segments]


def sizes(plan):
    return [filling.size(place) for filling in plan.fillings for place in range(filling.count)]


def test_a_first_night_fills_shards_and_leaves_the_last_one_open():
    plan = plan_segments([], {"": 250}, LIMITS)
    assert plan == SegmentPlan((), (), (), (), (Filling("", 0, 250, 100),))
    assert sizes(plan) == [100, 100, 50]
    assert [plan.fillings[0].frozen(place) for place in range(3)] == [True, True, False]


def test_an_empty_night_builds_nothing():
    parent = [segment(0), segment(1, nodes=50, living=40, frozen=False)]
    plan = plan_segments(parent, {"": 0}, LIMITS)
    assert (numbers(plan.kept), plan.inserted, plan.fillings) == ([0, 1], 0, ())


def test_what_is_new_goes_to_the_open_shard_whose_dead_are_left_out():
    plan = plan_segments([segment(0), segment(7, nodes=50, living=40, frozen=False)], {"": 10}, LIMITS)
    assert (numbers(plan.kept), numbers(plan.reopened)) == ([0], [7])
    assert plan.fillings == (Filling("", 8, 50, 100),)


def test_a_shard_without_a_living_node_goes_at_no_cost():
    plan = plan_segments([segment(0, living=0), segment(1, living=0, frozen=False), segment(2)], {}, LIMITS)
    assert (numbers(plan.empty), numbers(plan.kept), plan.inserted) == ([0, 1], [2], 0)


def test_the_most_dead_shard_is_dissolved_first_and_one_a_night_at_least():
    plan = plan_segments([segment(0, living=65), segment(1, living=50), segment(2)], {}, LIMITS)
    assert (numbers(plan.dissolved), numbers(plan.kept), plan.inserted) == ([1], [0, 2], 50)


def test_condemned_shards_go_whatever_it_costs_and_use_up_the_share():
    parent = [segment(0, living=99), segment(1, living=98), segment(2, living=50), segment(3)]
    plan = plan_segments(parent, {}, LIMITS, condemned={0, 1})
    assert (numbers(plan.dissolved), numbers(plan.kept), sizes(plan)) == ([0, 1], [2, 3], [100, 97])


def test_a_condemned_open_shard_is_built_anew_without_its_dead():
    parent = [segment(0), segment(1, nodes=50, living=49, frozen=False)]
    plan = plan_segments(parent, {"": 1}, LIMITS, condemned={1})
    assert (numbers(plan.dissolved), numbers(plan.reopened), sizes(plan)) == ([1], [], [50])


def test_a_condemned_shard_without_a_living_node_goes_at_no_cost():
    plan = plan_segments([segment(0, living=0), segment(1)], {}, LIMITS, condemned={0})
    assert (numbers(plan.empty), numbers(plan.dissolved), plan.inserted) == ([0], [], 0)


def test_a_shard_that_just_fills_the_open_one_is_dissolved_early():
    parent = [segment(0, living=85), segment(1, nodes=12, frozen=False)]
    assert numbers(plan_segments(parent, {"": 1}, LIMITS).dissolved) == [0]
    assert sizes(plan_segments(parent, {"": 1}, LIMITS)) == [98]
    assert numbers(plan_segments(parent, {"": 50}, LIMITS).dissolved) == []


def test_keys_have_open_shards_of_their_own_and_one_budget():
    parent = [segment(0, key="a", nodes=50, frozen=False), segment(1, key="b", nodes=50, frozen=False)]
    plan = plan_segments(parent, {"b": 60, "c": 5}, LIMITS)
    assert (numbers(plan.kept), numbers(plan.reopened)) == ([0], [1])
    assert plan.fillings == (Filling("b", 2, 110, 100), Filling("c", 4, 5, 100))
    due = [segment(n, key=str(n), living=50) for n in range(4)]
    assert len(plan_segments(due, {}, LIMITS).dissolved) == 1


segments = st.builds(
    lambda nodes, share, frozen, key: (key, nodes, round(share * nodes), frozen),
    st.integers(1, 120),
    st.floats(0, 1),
    st.booleans(),
    st.sampled_from("ab"),
)


@settings(max_examples=500, deadline=None)
@given(
    rows=st.integers(1, 120),
    parent=st.lists(segments, max_size=12),
    new=st.dictionaries(st.sampled_from("abc"), st.integers(0, 400)),
    dead_max=st.floats(0, 1),
    dissolve_max=st.floats(0, 1),
)
def test_whatever_the_parent_is_a_plan_keeps_its_promises(rows, parent, new, dead_max, dissolve_max):
    made = [Segment(number, *fields) for number, fields in enumerate(parent)]
    check_plan(made, new, Limits(rows, dead_max, dissolve_max))


def check_plan(parent: list[Segment], new: dict[str, int], limits: Limits) -> SegmentPlan:
    plan = plan_segments(parent, new, limits)
    parts = [*plan.kept, *plan.reopened, *plan.dissolved, *plan.empty]
    assert sorted(numbers(parts)) == sorted(numbers(parent)), "every shard stands in one place"
    inserted = Counter(new)
    for s in (*plan.reopened, *plan.dissolved):
        inserted[s.key] += s.living
    assert {f.key: f.nodes for f in plan.fillings} == {key: n for key, n in inserted.items() if n}
    budget = limits.dissolve_max * (sum(s.living for s in parent) + sum(new.values()))
    assert len(plan.dissolved) <= 1 or sum(s.living for s in plan.dissolved) <= budget
    assert not any(s.frozen for s in plan.reopened)
    assert all(s.living == 0 for s in plan.empty)
    made = [f.first + place for f in plan.fillings for place in range(f.count)]
    assert len(set(made)) == len(made)
    assert all(number > s.number for number in made for s in parent)
    assert all(0 < f.size(place) <= limits.rows for f in plan.fillings for place in range(f.count))
    assert all(sum(f.size(place) for place in range(f.count)) == f.nodes for f in plan.fillings)
    assert all(f.frozen(place) for f in plan.fillings for place in range(f.count - 1))
    return plan


class Shop:
    """A shop's nights by its nodes: shard number -> (nodes that were inserted, is it frozen)."""

    def __init__(self, rows: int, seed: int) -> None:
        self.limits = Limits(rows, 0.3, 0.03)
        self.random = random.Random(seed)
        self.living: set[int] = set()
        self.shards: dict[int, tuple[frozenset[int], bool]] = {}
        self.born = 0

    def night(self, new: int, gone: int, returned: int) -> SegmentPlan:
        """Some nodes go, in clusters; some that are dead come back; the plan is checked and carried out."""
        held = {node for nodes, _ in self.shards.values() for node in nodes}
        before = sorted(self.living)
        if before:
            start = self.random.randrange(len(before))
            self.living -= set((before[start:] + before[:start])[:gone])
        dead = sorted(set(range(self.born)) - self.living)
        self.living |= set(self.random.sample(dead, min(returned, len(dead)))) | set(range(self.born, self.born + new))
        self.born += new
        parent = [
            Segment(n, "", len(nodes), len(nodes & self.living), frozen) for n, (nodes, frozen) in self.shards.items()
        ]
        plan = check_plan(parent, {"": len(self.living - held)}, self.limits)
        self.carry_out(plan, self.living - held)
        return plan

    def carry_out(self, plan: SegmentPlan, new: set[int]) -> None:
        pool = new | {n for s in (*plan.reopened, *plan.dissolved) for n in self.shards[s.number][0] & self.living}
        before, self.shards = self.shards, {s.number: self.shards[s.number] for s in plan.kept}
        nodes = self.random.sample(sorted(pool), len(pool))
        for filling in plan.fillings:
            for place in range(filling.count):
                part = nodes[place * filling.rows : (place + 1) * filling.rows]
                self.shards[filling.first + place] = frozenset(part), filling.frozen(place)
        assert all(self.shards[s.number] == before[s.number] for s in plan.kept)

    def check(self) -> None:
        held = Counter(node for nodes, _ in self.shards.values() for node in nodes)
        assert set(held) >= self.living
        assert all(count == 1 for count in held.values()), "every node stands in one shard"
        assert sum(not frozen for _, frozen in self.shards.values()) <= 1


@pytest.mark.parametrize("seed", range(20))
def test_two_thousand_nights_of_a_small_shop(seed):
    """20 shops, 100 nights each, of any size and churn; among them nights on which nothing or nearly all goes."""
    rng = random.Random(seed)
    shop = Shop(rows=rng.choice([3, 7, 20, 50]), seed=seed)
    shop.night(rng.randrange(300), 0, 0)
    for _ in range(100):
        churn = rng.choice([0, 0.01, 0.03, 0.05, 0.2])
        nodes = len(shop.living)
        gone = nodes if rng.random() < 0.02 else int(churn * nodes)
        shop.night(int(churn * nodes) + rng.randrange(3), gone, rng.randrange(1 + int(churn * nodes / 2)))
        shop.check()


def simulate(shards: int, rows: int, nights: int, seed: int = 0, skew: float = 3.0) -> list[tuple[float, float]]:
    """Nights of 1 % new and 1 % gone, skewed between shards: (insertions a full build's, graphs a fresh build's)."""
    rng, limits, total = random.Random(seed), Limits(rows, 0.3, 0.03), shards * rows
    parent = [Segment(number, "", rows, rows, True) for number in range(shards)]
    figures = []
    for _ in range(nights):
        weights = [s.living * (1 + skew * rng.expovariate(1)) for s in parent]
        scale = 0.01 * total / sum(weights)
        parent = [
            Segment(s.number, "", s.nodes, max(0, s.living - math.floor(w * scale + rng.random())), s.frozen)
            for s, w in zip(parent, weights, strict=True)
        ]
        plan = check_plan(parent, {"": total // 100}, limits)
        parent = list(plan.kept) + [
            Segment(f.first + n, "", f.size(n), f.size(n), f.frozen(n)) for f in plan.fillings for n in range(f.count)
        ]
        figures.append((plan.inserted / total, len(parent) / math.ceil(sum(s.living for s in parent) / rows)))
    return figures


@pytest.mark.parametrize(
    ("shards", "average", "worst"), [(10, 0.08, 0.25), (50, 0.04, 0.1), pytest.param(1700, 0.04, 0.1)]
)
def test_what_a_night_inserts(shards, average, worst):
    """Sixty nights at 1 % new and 1 % gone, against a full build every night; graphs against a fresh build's."""
    figures = simulate(shards, rows=1000, nights=60)
    inserted = [share for share, _ in figures]
    graphs = sum(ratio for _, ratio in figures) / len(figures)
    print(f"{shards} shards: {sum(inserted) / 60:.1%} of a full build a night, at most {max(inserted):.1%}; ", end="")
    print(f"{graphs:.2f} times the graphs of a fresh build")
    assert sum(inserted) / len(inserted) <= average
    assert max(inserted) <= worst
    assert graphs <= 1.25
