"""Which shards a night builds. Shards are filled like the segments of a log, and never changed once they are written.

A node that is new goes to the open shard of its key, which is built anew until it is full and then frozen. A shard of
which too much is dead is dissolved: its living nodes go to the open shard too. All other shards stay as they are.
"""

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

# A shard that is filled to this share is frozen: to build it anew for the rest would cost more than it saves.
FULL = 0.85
# Shards of one age would all pass the limit in one night, so each has its own, between this share of it and all of it.
STAGGER = 2 / 3
# From this share of the limit on a shard is dissolved early where its living nodes just fill the open shard: both are
# then done with at the price of one.
EARLY = 1 / 3
GOLDEN = (math.sqrt(5) - 1) / 2


@dataclass(frozen=True)
class Limits:
    """`rows` nodes a shard; `dead_max` dead nodes a node; `dissolve_max` nodes inserted by dissolving a living node."""

    rows: int
    dead_max: float
    dissolve_max: float


@dataclass(frozen=True)
class Segment:
    """A shard of the parent release as tonight leaves it: `living` of its `nodes` still have a member.

    number: unlike any other of its index, rising with its age. key: what the index is sharded by.
    """

    number: int
    key: str
    nodes: int
    living: int
    frozen: bool

    @property
    def dead_share(self) -> float:
        return 1 - self.living / self.nodes

    def limit(self, dead_max: float) -> float:
        """Its own limit. Multiples of the golden ratio spread shards of consecutive numbers evenly."""
        return dead_max * (STAGGER + (1 - STAGGER) * (self.number * GOLDEN % 1))


@dataclass(frozen=True)
class Filling:
    """The shards that `nodes` nodes of a key are built into, numbered from `first`: `rows` each, the last the rest."""

    key: str
    first: int
    nodes: int
    rows: int

    @property
    def count(self) -> int:
        return math.ceil(self.nodes / self.rows)

    def size(self, place: int) -> int:
        """Nodes of the shard `first + place`, as planned: a node's hash decides, so that a few more or less come."""
        return min(self.rows, self.nodes - place * self.rows)

    def frozen(self, place: int) -> bool:
        return self.size(place) >= FULL * self.rows


@dataclass(frozen=True)
class SegmentPlan:
    """What becomes of the parent's shards, each of which stands once, and what is built.

    kept: untouched; reopened: open ones, built anew; dissolved: too much of them is dead, or they had to go; empty: all
    of them is dead.
    """

    kept: tuple[Segment, ...]
    reopened: tuple[Segment, ...]
    dissolved: tuple[Segment, ...]
    empty: tuple[Segment, ...]
    fillings: tuple[Filling, ...]

    @property
    def inserted(self) -> int:
        """Nodes that are inserted into a graph tonight."""
        return sum(filling.nodes for filling in self.fillings)


def plan_segments(
    parent: Sequence[Segment], new: Mapping[str, int], limits: Limits, condemned: Collection[int] = ()
) -> SegmentPlan:
    """The shards of one index: `parent` as tonight leaves them, `new` nodes a key that none of them has.

    What is new is always inserted. Dissolved are at most `dissolve_max` of all living nodes, but one shard at least;
    and, whatever that costs, the shards with the numbers `condemned`, which use up the night's share.
    """
    living = [segment for segment in parent if segment.living]
    coming = {key: count for key, count in new.items() if count}
    budget = limits.dissolve_max * (sum(segment.living for segment in living) + sum(coming.values()))
    dissolved = [s for s in living if s.number in condemned] or choose_dissolved(living, coming, budget, limits)
    gone = {segment.number for segment in dissolved}
    touched = {*coming, *(segment.key for segment in dissolved)}
    reopened = [s for s in living if not s.frozen and s.key in touched and s.number not in gone]
    pools = Counter({key: coming.get(key, 0) for key in sorted(touched)})
    for segment in (*reopened, *dissolved):
        pools[segment.key] += segment.living
    return SegmentPlan(
        tuple(s for s in living if s.number not in gone and (s.frozen or s.key not in touched)),
        tuple(reopened),
        tuple(dissolved),
        tuple(segment for segment in parent if not segment.living),
        tuple(fill(pools, 1 + max((segment.number for segment in parent), default=-1), limits.rows)),
    )


def choose_dissolved(
    segments: Sequence[Segment], coming: Mapping[str, int], budget: float, limits: Limits
) -> list[Segment]:
    """The shards past their own limit, the most dead first; then those that just fill what is built anyway."""
    is_open = Counter[str]()
    for segment in segments:
        is_open[segment.key] += 0 if segment.frozen else segment.living
    pools = Counter({key: count + is_open[key] for key, count in coming.items()})
    candidates = sorted(
        (s for s in segments if s.frozen or s.key not in coming), key=lambda s: (s.living / s.nodes, s.number)
    )
    due = [s for s in candidates if s.dead_share > s.limit(limits.dead_max)]
    early = [s for s in candidates if s.frozen and limits.dead_max * EARLY < s.dead_share <= s.limit(limits.dead_max)]
    chosen: list[Segment] = []
    for segment in (*due, *early):
        wanted = segment.dead_share > segment.limit(limits.dead_max) or fits(pools[segment.key], segment, limits.rows)
        if wanted and (not chosen or segment.living <= budget):
            chosen.append(segment)
            budget -= segment.living
            pools[segment.key] = (pools[segment.key] or is_open[segment.key]) + segment.living * segment.frozen
    return chosen


def fits(pool: int, segment: Segment, rows: int) -> bool:
    """Whether a pool that is built anyway and this shard's living nodes give full shards and no open one."""
    rest = (pool + segment.living) % rows
    return pool > 0 and (rest == 0 or rest >= FULL * rows)


def fill(pools: Mapping[str, int], first: int, rows: int) -> Iterable[Filling]:
    for key, nodes in pools.items():
        filling = Filling(key, first, nodes, rows)
        first += filling.count
        yield filling
