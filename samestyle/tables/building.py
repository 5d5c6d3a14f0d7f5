"""Build the night's shards on executors: what differs from the parent release decides which.

The driver sees a row a shard. The functions that workers run come from udfs/ and are handed in, because this room knows
nothing of udfs.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
from pyspark.sql import DataFrame

from samestyle.index.nodes import GraphParameters
from samestyle.index.segments import Limits, Segment, SegmentPlan, plan_segments
from samestyle.progress import say
from samestyle.release.denylist import read_denylist
from samestyle.release.manifest import PlacedShard, Shard
from samestyle.tables.io import Persisted
from samestyle.tables.members import (
    HELD,
    NodeCounts,
    Placement,
    count_built,
    count_nodes,
    index_rows,
    placed_rows,
    rows_by_node,
    shard_rows,
)
from samestyle.tables.modules import IndexTask, graph_parameters, index_of, rebuild_reason, shard_limits
from samestyle.tables.night import Night
from samestyle.tables.versions import repartition_by_id

WorkerFunction = Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]
Record = dict[str, Any]
BUILT = "shard int, record string"


@dataclass(frozen=True)
class Start:
    """What an index goes on from: the parent's shards, or none, and why not where the parent has some."""

    task: IndexTask
    graph: GraphParameters
    limits: Limits
    shards: tuple[Shard, ...]
    rebuilt: str | None


@dataclass(frozen=True)
class Target:
    """A shard of tonight's release; `kept`: what the parent says of it and its slot, None where it is built."""

    index: int
    number: int
    key: str
    frozen: bool
    kept: tuple[Shard, int] | None = None


def build_indexes(
    night: Night, tasks: list[IndexTask], reader: Callable[..., WorkerFunction], builder: Callable[..., WorkerFunction]
) -> list[Record]:
    """Build what is to be built of all indexes; a record of each, without shards where no item has the view."""
    starts = [start_of(night, task) for task in tasks]
    slots = [PlacedShard(n, shard, start.graph.dim) for n, start in enumerate(starts) for shard in start.shards]
    members = index_rows(night.items(), night.embeddings(), tasks, night.clicks())
    with Persisted() as persisted:
        rows = persisted.add(rows_by_node(members, held_nodes(night, slots, reader)))
        counts = count_nodes(rows)
        purge = is_purge_due(night)
        plans = [plan_index(n, start.limits, slots, counts, purge) for n, start in enumerate(starts)]
        for start, plan in zip(starts, plans, strict=True):
            say(announcement(start, plan, purge))
        targets, placement = place(plans, slots)
        placed = placed_rows(rows, placement, night.settings.index.seed)
        graphs = {n: (starts[targets[n].index].graph, nodes) for n, nodes in count_built(placed).items()}
        stream = shard_rows(placed, night.embeddings(), tasks, placement.inserted)
        made = make_shards(night, stream, targets, graphs, builder)
    return [index_record(n, *pair, targets, made) for n, pair in enumerate(zip(starts, plans, strict=True))]


def start_of(night: Night, task: IndexTask) -> Start:
    """The parent's shards of this index, unless they were made in another way."""
    settings, dim = night.settings, night.encoder.load().dim
    graph, limits = graph_parameters(settings, task.module, dim), shard_limits(settings, task.module, dim)
    before = index_of(night.parent, task.name, task.view)
    if night.parent is None or before is None:
        return Start(task, graph, limits, (), None)
    reason = rebuild_reason(night.parent, before, settings, task.module, dim, night.encoder.encoder_id)
    return Start(task, graph, limits, () if reason else before.shards, reason)


def held_nodes(night: Night, slots: Sequence[PlacedShard], reader: Callable[..., WorkerFunction]) -> DataFrame:
    """The nodes that the parent's item files hold, see HELD."""
    if not slots:
        return night.spark.createDataFrame([], HELD)
    numbers = night.spark.createDataFrame([(n,) for n in range(len(slots))], "shard int")
    return repartition_by_id(numbers, len(slots), "shard").mapInArrow(reader(slots, night.store), HELD)


def is_purge_due(night: Night) -> bool:
    """Whether `samestyle deny purge` was called after the parent's run began."""
    return night.parent is not None and read_denylist(night.store).is_purge_due(night.parent.created_at)


def plan_index(
    index: int, limits: Limits, slots: Sequence[PlacedShard], counts: NodeCounts, purge: bool
) -> SegmentPlan:
    """Every shard of the parent has a row in the counts, because every node has one in its item file.

    purge: no shard with a dead node may stay. A dead node does not tell whose it was, so that all of them go.
    """
    segments = [
        Segment(one.shard.shard, one.shard.key or "", *counts[index, one.shard.key or "", slot], one.shard.frozen)
        for slot, one in enumerate(slots)
        if one.index == index
    ]
    new = {key: nodes for (of, key, slot), (nodes, _) in counts.items() if of == index and slot is None}
    condemned = {segment.number for segment in segments if purge and segment.living < segment.nodes}
    return plan_segments(segments, new, limits, condemned)


def announcement(start: Start, plan: SegmentPlan, purge: bool) -> str:
    """What a night is going to do with an index, in a line."""
    built = sum(filling.count for filling in plan.fillings)
    parts = {"stay": plan.kept, "reopened": plan.reopened, "dissolved": plan.dissolved, "empty": plan.empty}
    of_parent = "".join(f", {len(part)} {name}" for name, part in parts.items()) if start.shards else ""
    why = f"; every shard is built anew: {start.rebuilt}" if start.rebuilt else ""
    purged = "; deny purge: every shard with a dead node goes" if purge and start.shards else ""
    return (
        f"plan of {start.task.label}: {plan.inserted:,} nodes to insert; shards: {built} built{of_parent}{why}{purged}"
    )


def place(plans: Sequence[SegmentPlan], slots: Sequence[PlacedShard]) -> tuple[list[Target], Placement]:
    """Tonight's shards over all indexes, in order; and where nodes go, in places of this list."""
    slot_of = {(one.index, one.shard.shard): slot for slot, one in enumerate(slots)}
    targets: list[Target] = []
    kept, fillings = [], []
    for index, plan in enumerate(plans):
        for segment in plan.kept:
            slot = slot_of[index, segment.number]
            kept.append((slot, len(targets)))
            targets.append(Target(index, segment.number, segment.key, segment.frozen, (slots[slot].shard, slot)))
        for filling in plan.fillings:
            fillings.append((index, len(targets), filling))
            targets += [Target(index, filling.first + n, filling.key, filling.frozen(n)) for n in range(filling.count)]
    return targets, Placement(tuple(kept), tuple(fillings))


def make_shards(
    night: Night,
    rows: DataFrame,
    targets: Sequence[Target],
    built: Mapping[int, tuple[GraphParameters, int]],
    builder: Callable[..., WorkerFunction],
) -> dict[int, Record]:
    """Place among the targets -> what its task recorded. Every shard is one task.

    built: place -> how it is built, and of how many nodes.
    """
    if not targets:
        return {}
    kept = {place: target.kept[0].nodes for place, target in enumerate(targets) if target.kept}
    # By id: a hash of the shard number would put several shards into one task. Nulls come first: nodes before items.
    parted = repartition_by_id(rows, len(targets), "shard")
    ordered = parted.sortWithinPartitions("label", "node_key", "alive", "item_id")
    made = ordered.mapInArrow(builder(built, kept, night.store), BUILT).collect()
    return {row["shard"]: json.loads(row["record"]) for row in made}


def index_record(
    index: int, start: Start, plan: SegmentPlan, targets: Sequence[Target], made: Mapping[int, Record]
) -> Record:
    """What the manifest will say of an index, and `plan`, what was done."""
    own = [(place, target) for place, target in enumerate(targets) if target.index == index and place in made]
    shards = [shard_record(target, made[place]) for place, target in own]
    say(f"built {start.task.label}: {sum(shard['nodes'] for shard in shards):,} nodes in {len(shards)} shards")
    return {
        "module": start.task.name,
        "view": start.task.view,
        "dim": start.graph.dim,
        "m": start.graph.m,
        "ef_construction": start.graph.ef_construction,
        "shard_by": start.task.module.shard_by,
        "shard_rows": start.limits.rows,
        "where": start.task.where,
        "shards": sorted(shards, key=lambda shard: shard["shard"]),
        "plan": plan_record(start, plan),
    }


def shard_record(target: Target, made: Record) -> Record:
    """What the manifest will say of a shard: of one that is kept, its items alone may have changed."""
    before = asdict(target.kept[0]) | {"recall": None} if target.kept else {}
    of_target = {"shard": target.number, "key": target.key or None, "frozen": target.frozen}
    return before | of_target | made


def plan_record(start: Start, plan: SegmentPlan) -> Record:
    parts = {"kept": plan.kept, "reopened": plan.reopened, "dissolved": plan.dissolved, "empty": plan.empty}
    numbers = {name: [segment.number for segment in part] for name, part in parts.items()}
    return numbers | {"inserted": plan.inserted, "rebuilt": start.rebuilt}
