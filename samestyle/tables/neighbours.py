"""The table of neighbours: each trigger's best candidates of all shards, put into bands.

A night goes on from the parent release's lists where it can. What is new in an index is searched; its lists, read
backwards, complete the lists of old triggers, as a cosine is the same from both ends. A trigger is searched anew where
it is new itself, where no search can find it, or where withdrawals have left fewer neighbours than are shown of a list
that had as many. So a list of fewer than `neighbours.k` is complete, and a longer one is complete down to its last.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from samestyle.errors import RefusedError
from samestyle.index.candidates import Reach
from samestyle.progress import say
from samestyle.release.manifest import BANDS, PlacedShard, Thresholds
from samestyle.settings import Neighbours
from samestyle.tables.indexes import MEMBERS, Record, WorkerFunction, find_candidates, index_members, search_shards
from samestyle.tables.io import Persisted
from samestyle.tables.members import node_key, with_vectors, with_views
from samestyle.tables.modules import index_of
from samestyle.tables.night import Night

LIST = ("index", "item_id", "band")
PAIR = ("index", "item_id", "own_supplier", "own_category", "neighbour_id", "supplier_id", "category", "score")
LISTED = (*LIST, "neighbour_id", "supplier_id", "score")
NODE = ("index", "node_key")
KEPT = "index int, item_id string, band string, neighbour_id string, supplier_id string, score float, lowest float"
SOURCE = (*NODE, "served_at", "content_key")
# What decides a list besides thresholds, encoder and items.
DECIDES = ("k", "keep", "candidates", "supplier_max")
# A new node is searched for so many times more candidates than a trigger: whose lists it belongs into is read from what
# it finds, and what is nearest to a trigger need not have the trigger among its own nearest.
DEEPER = 2
# Crowded searches go on up to so many times the candidates.
MOST = 16


@dataclass(frozen=True)
class Plan:
    """What is searched for one module's lists; why it is everything, where the parent has lists."""

    module: str
    searches: int
    triggers: int
    searched: int
    reason: str | None

    @property
    def updated(self) -> int:
        return self.triggers - self.searched

    def __str__(self) -> str:
        why = f"; all lists are made anew: {self.reason}" if self.reason else ""
        return (
            f"plan of neighbours of {self.module}: {self.searches:,} searches for {self.searched:,} of "
            f"{self.triggers:,} triggers, {self.updated:,} lists updated{why}"
        )


@dataclass(frozen=True)
class Work:
    """triggers: all, `fresh` are those that are searched. arrivals: items that are new in an index, see MEMBERS. kept:
    what stays of the parent's lists (LISTED, `lowest`: the score down to which a list was complete, null: the band's).
    """

    triggers: DataFrame
    arrivals: DataFrame
    kept: DataFrame

    def queries(self, items: DataFrame) -> DataFrame:
        """SOURCE of all nodes to search."""
        of_arrivals = self.arrivals.join(items.select("item_id", "served_at", "content_key"), "item_id")
        return self.triggers.where("fresh").select(*SOURCE).unionByName(of_arrivals.select(*SOURCE))

    def without(self, indexes: list[int]) -> "Work":
        """The same, but all triggers of these indexes are searched."""
        among = F.col("index").isin(indexes)
        triggers = self.triggers.withColumn("fresh", F.col("fresh") | among)
        return Work(triggers, self.arrivals.where(~among), self.kept.where(~among))


def write_neighbours(
    night: Night,
    records: list[Record],
    efs: list[int],
    thresholds: Thresholds,
    finder: Callable[..., WorkerFunction],
    reader: Callable[..., WorkerFunction],
) -> list[Plan]:
    """Write the lists for these fused indexes, one a module. Raises RefusedError above `neighbours.searches_max`."""
    limits = night.settings.neighbours
    with Persisted() as persisted:
        work, plans = planned(night, records, thresholds, reader, persisted)
        for plan in plans:
            say(str(plan))
        check_budget(night, plans)
        reaches = [reach(limits, thresholds, ef, plan) for ef, plan in zip(efs, plans, strict=True)]
        queries = with_node_vectors(night, work.queries(night.items()))
        found = find_candidates(night, records, queries, reaches, finder)
        if any(plan.updated for plan in plans):
            found = persisted.add(found)  # read from both ends
            old = updated(work.kept, in_bands(backward_pairs(work, found, limits), thresholds))
        else:
            old = work.kept.select(*LISTED)
        listed = in_bands(forward_pairs(work.triggers, found), thresholds).unionByName(old)
        rows = night_rows(night, records, ranked(listed, limits))
        night.lease.check()
        night.warehouse.neighbours.replace(rows, "release_id", night.release_id)
    return plans


def own_rows(module: str, release_id: str) -> Column:
    """The rows of one module in one release."""
    return (F.col("module") == module) & (F.col("release_id") == release_id)


def night_rows(night: Night, records: list[Record], lists: DataFrame) -> DataFrame:
    """schemas.NEIGHBOURS."""
    module = one_of({record["module"]: F.col("index") == n for n, record in enumerate(records)})
    columns = ("item_id", "band", "rank", "neighbour_id", "score")
    return lists.select(module.alias("module"), *columns, F.lit(night.release_id).alias("release_id"))


def one_of(cases: Mapping[Any, Column]) -> Column:
    """The value whose condition is true, null where there is none."""
    return F.coalesce(F.lit(None), *[F.when(condition, F.lit(value)) for value, condition in cases.items()])


def count_rows(night: Night) -> dict[str, int]:
    """By module, in the order of the settings: the neighbours of this release that are shown."""
    rows = night.warehouse.neighbours.read().where(F.col("release_id") == night.release_id)
    shown = rows.where(F.col("rank") <= night.settings.neighbours.k).groupBy("module").count().collect()
    counts = {row["module"]: row["count"] for row in shown}
    return {module: counts[module] for module in night.settings.modules if module in counts}


# --- which lists are searched anew


def planned(
    night: Night,
    records: list[Record],
    thresholds: Thresholds,
    reader: Callable[..., WorkerFunction],
    persisted: Persisted,
) -> tuple[Work, list[Plan]]:
    """Where going on from the parent's lists would take as many searches as making them anew, they are made anew."""
    reasons = [not_continued(night, record, thresholds) for record in records]
    continued = [n for n, reason in enumerate(reasons) if reason is None]
    work = started(night, records, continued, reader, persisted)
    counts = count_searches(night, work)
    costly = [n for n in continued if n in counts and counts[n]["searches"] >= counts[n]["nodes"]]
    if costly:
        reasons = ["that takes no more searches" if n in costly else reason for n, reason in enumerate(reasons)]
        work = work.without(costly)
        counts = count_searches(night, work)
    plans = [plan_of(record, counts.get(n), reasons[n]) for n, record in enumerate(records)]
    return work, plans


def plan_of(record: Record, counts: dict[str, int] | None, reason: str | None) -> Plan:
    found = counts or {"searches": 0, "triggers": 0, "fresh": 0}
    return Plan(record["module"], found["searches"], found["triggers"], found["fresh"], reason or None)


def not_continued(night: Night, record: Record, thresholds: Thresholds) -> str | None:
    """Why the parent's lists of a module are no start, with both values of what changed; "" where there are none."""
    parent, name = night.parent, record["module"]
    before = index_of(parent, name, "fused")
    if parent is None or before is None:
        return ""
    was, now = parent.settings.get("neighbours", {}), night.settings.neighbours.model_dump()
    triggers = parent.settings.get("modules", {}).get(name, {}).get("triggers")
    pairs = {
        "the encoder": (parent.encoder.encoder_id, night.encoder.encoder_id),
        "triggers": (triggers, night.settings.modules[name].triggers),
        **{f"neighbours.{key}": (was.get(key), now[key]) for key in DECIDES},
        **{f"the threshold of {band}": (before.thresholds.lowest(band), thresholds.lowest(band)) for band in BANDS},
    }
    changed = "; ".join(f"{what} was {old}, is {new}" for what, (old, new) in pairs.items() if old != new)
    if not changed and night.warehouse.neighbours.read().where(own_rows(name, parent.release_id)).isEmpty():
        return f"the table has none of release {parent.release_id}"
    return changed or None


def started(
    night: Night,
    records: list[Record],
    continued: list[int],
    reader: Callable[..., WorkerFunction],
    persisted: Persisted,
) -> Work:
    """continued: the indexes whose lists go on from the parent's."""
    triggers = all_triggers(night, [record["module"] for record in records])
    if not continued:
        everything = persisted.add(triggers.withColumn("fresh", F.lit(True)))
        return Work(everything, empty(night, MEMBERS), empty(night, KEPT))
    members = persisted.add(index_members(night, placed(search_shards(records), continued), reader))
    before = index_members(night, parent_shards(night, records, continued), reader)
    arrivals = persisted.add(members.subtract(before))
    triggers = persisted.add(with_old(night, records, continued, triggers, members))
    stayed = members.join(arrivals, ["index", "item_id"], "left_anti")
    old = persisted.add(old_lists(night, records, continued, triggers.where("old"), stayed))
    short = (F.col("before") >= night.settings.neighbours.k) & (F.col("left") < night.settings.neighbours.k)
    eaten = old.where(short).select("index", "item_id").distinct().withColumn("eaten", F.lit(True))
    triggers = triggers.join(eaten, ["index", "item_id"], "left")
    triggers = triggers.withColumn("fresh", ~F.col("old") | F.col("eaten").isNotNull()).drop("old", "eaten")
    kept = old.where("stayed").join(eaten, ["index", "item_id"], "left_anti")
    lowest = F.when(F.col("before") >= night.settings.neighbours.k, F.col("lowest")).alias("lowest")
    return Work(triggers, arrivals, kept.select(*LISTED, lowest))


def all_triggers(night: Night, modules: list[str]) -> DataFrame:
    """Whose neighbours are listed, all items or the clicked ones: TRIGGERS."""
    items = with_views(night.items().where("content_key is not null"), night.embeddings()).where("has_fused_vector")
    clicks, wanted = night.clicks(), []
    if clicks is not None:
        clicked = clicks.select("item_id", F.lit(True).alias("is_clicked")).distinct()
        items = items.join(clicked, "item_id", "left")
    for number, name in enumerate(modules):
        everything = clicks is None or night.settings.modules[name].triggers == "catalogue"
        wanted.append(F.lit(number) if everything else F.when(F.col("is_clicked"), number))
    return items.select(
        F.explode(F.filter(F.array(*wanted), lambda one: one.isNotNull())).alias("index"),
        "item_id",
        F.col("supplier_id").alias("own_supplier"),
        F.col("category").alias("own_category"),
        node_key("fused").alias("node_key"),
        "served_at",
        "content_key",
    )


def with_old(
    night: Night, records: list[Record], continued: list[int], triggers: DataFrame, members: DataFrame
) -> DataFrame:
    """The triggers with `old`: whether the parent has listed just them, and the index holds them, so that what is new
    can find them."""
    served = ("served_at", "content_key")
    before = night.baseline().where("content_key is not null")
    before = before.select("item_id", F.struct(*served, "supplier_id", "category").alias("known"))
    own = (F.col("own_supplier").alias("supplier_id"), F.col("own_category").alias("category"))
    tonight = F.struct(*served, *own)
    same = F.coalesce(F.col("known").eqNullSafe(tonight), F.lit(False))
    listed = parent_rows(night, records, continued).select("index", "item_id").distinct()
    held = members.select(*NODE).distinct()
    whole = [n for n in continued if night.settings.modules[records[n]["module"]].triggers == "catalogue"]
    was_listed = F.col("index").isin(whole) | F.col("listed")
    return (
        triggers.join(before, "item_id", "left")
        .join(listed.withColumn("listed", F.lit(True)), ["index", "item_id"], "left")
        .join(held.withColumn("held", F.lit(True)), list(NODE), "left")
        .withColumn("old", F.coalesce(same & was_listed & F.col("held") & F.col("index").isin(continued), F.lit(False)))
        .drop("known", "listed", "held")
    )


def parent_rows(night: Night, records: list[Record], continued: list[int]) -> DataFrame:
    """The parent's lists: index, item_id, band, neighbour_id, score."""
    assert night.parent is not None
    index = one_of({n: F.col("module") == records[n]["module"] for n in continued})
    rows = night.warehouse.neighbours.read().where(F.col("release_id") == night.parent.release_id)
    numbered = rows.withColumn("index", index.cast("int")).where("index is not null")
    return numbered.select(*LIST, "neighbour_id", "score")


def parent_shards(night: Night, records: list[Record], continued: list[int]) -> list[PlacedShard]:
    found = [(n, index_of(night.parent, records[n]["module"], "fused")) for n in continued]
    return [PlacedShard(n, shard, index.dim) for n, index in found if index for shard in index.shards]


def placed(shards: list[PlacedShard], indexes: list[int]) -> list[PlacedShard]:
    return [shard for shard in shards if shard.index in indexes]


def old_lists(
    night: Night, records: list[Record], continued: list[int], triggers: DataFrame, stayed: DataFrame
) -> DataFrame:
    """LISTED of the parent for these triggers, with `stayed`, whether the index still holds the neighbour as it was,
    and of its list: `before`, its length, `left`, how many stayed, `lowest`, its lowest score."""
    rows = parent_rows(night, records, continued).join(
        triggers.select("index", "item_id"), ["index", "item_id"], "left_semi"
    )
    there = stayed.select("index", F.col("item_id").alias("neighbour_id"), "supplier_id", F.lit(True).alias("stayed"))
    own = Window.partitionBy(*LIST)
    return (
        rows.join(there, ["index", "neighbour_id"], "left")
        .withColumn("before", F.count("*").over(own))
        .withColumn("left", F.count("stayed").over(own))
        .withColumn("lowest", F.min("score").over(own))
    )


def count_searches(night: Night, work: Work) -> dict[int, dict[str, int]]:
    """By index: `searches`, nodes to search; `nodes` of all triggers; `triggers`; `fresh`, those that are searched."""
    queries = work.queries(night.items()).groupBy("index").agg(F.countDistinct("node_key").alias("searches"))
    counts = work.triggers.groupBy("index").agg(
        F.count("*").alias("triggers"),
        F.count_if("fresh").alias("fresh"),
        F.countDistinct("node_key").alias("nodes"),
    )
    rows = counts.join(queries, "index", "left").fillna(0, ["searches"]).collect()
    return {row["index"]: row.asDict() for row in rows}


def check_budget(night: Night, plans: list[Plan]) -> None:
    """Raises RefusedError where more searches are planned than `neighbours.searches_max` allows."""
    most, wanted = night.settings.neighbours.searches_max, sum(plan.searches for plan in plans)
    if most is not None and wanted > most:
        raise RefusedError(
            f"the lists of neighbours need {wanted:,} searches, neighbours.searches_max allows {most:,}. What this run "
            f"has embedded and built is kept: go on with ./spark-submit.sh neighbours --run {night.run.run_id} "
            f"neighbours.searches_max={wanted}, then publish; or list fewer triggers (modules.<name>.triggers=clicked)"
        )


# --- searching


def reach(limits: Neighbours, thresholds: Thresholds, ef: int, plan: Plan) -> Reach:
    nodes = limits.candidates * (DEEPER if plan.updated else 1)
    return Reach(
        nodes=nodes,
        ef=ef,
        floor=thresholds.similar,
        most=MOST * nodes,
        varied=limits.keep,
        per_supplier=limits.supplier_max,
        members=limits.keep + 1,
    )


def with_node_vectors(night: Night, sources: DataFrame) -> DataFrame:
    """index, query_id (the node), vector: once a node, that of the earliest row, as in the index."""
    first = sources.groupBy(*NODE).agg(F.min(F.struct("served_at", "content_key")).alias("source"))
    named = first.select("index", F.col("node_key").alias("query_id"), "source.*")
    vectors = with_vectors(named, night.embeddings())
    return vectors.select("index", "query_id", F.col("fused_vector").alias("vector"))


def forward_pairs(triggers: DataFrame, found: DataFrame) -> DataFrame:
    """PAIR of the triggers that were searched: what their nodes have found, less themselves."""
    asked = triggers.where("fresh").select("index", F.col("node_key").alias("query_id"), "item_id", *PAIR[2:4])
    of_others = found.withColumnRenamed("item_id", "neighbour_id").drop("node_key", "first")
    return asked.join(of_others, ["index", "query_id"]).where("item_id != neighbour_id").select(*PAIR)


def backward_pairs(work: Work, found: DataFrame, limits: Neighbours) -> DataFrame:
    """PAIR of old triggers that a new item's node has found."""
    nodes = found.where("first").groupBy("index", "query_id", "node_key").agg(F.max("score").alias("score"))
    new = first_members(work.arrivals, limits.keep + 1).select(
        "index", F.col("node_key").alias("query_id"), F.col("item_id").alias("neighbour_id"), "supplier_id", "category"
    )
    old = work.triggers.where("not fresh").select(*NODE, "item_id", *PAIR[2:4])
    pairs = new.join(nodes, ["index", "query_id"]).join(old, list(NODE))
    return pairs.where("item_id != neighbour_id").select(*PAIR)


def first_members(arrivals: DataFrame, most: int) -> DataFrame:
    """At most so many items of a node, the first of each supplier before the second of any, as searches name them."""
    place = F.row_number().over(Window.partitionBy(*NODE).orderBy("turn", "item_id"))
    turns = arrivals.withColumn("turn", turn(NODE, ["item_id"]))
    return turns.withColumn("place", place).where(F.col("place") <= most)


def turn(keys: Sequence[str], order: Sequence[Column | str]) -> Column:
    """The how many-th of its supplier a row is among those of equal keys; an unknown supplier is one of its own."""
    own = Window.partitionBy(*keys, "supplier_id").orderBy(*order)
    return F.when(F.col("supplier_id").isNull(), 1).otherwise(F.row_number().over(own))


# --- lists


def in_bands(pairs: DataFrame, thresholds: Thresholds) -> DataFrame:
    """LISTED of the pairs (PAIR) that belong to a band.

    same_style: other suppliers; duplicate: the same supplier; similar: the next ones of the same category, near ones of
    the same supplier among them. No neighbour is in two bands.
    """
    return pairs.withColumn("band", band_of(thresholds)).where("band is not null").select(*LISTED)


def band_of(thresholds: Thresholds) -> Column:
    """Which band a pair falls into, null for none."""
    score, close = F.col("score"), F.col("score") >= thresholds.same_style
    same_category = F.col("category").eqNullSafe(F.col("own_category"))
    return (
        F.when(close & ~same_supplier(), "same_style")
        .when(same_supplier() & (score >= thresholds.duplicate), "duplicate")
        .when((score >= thresholds.similar) & same_category, "similar")
    )


def same_supplier() -> Column:
    """Unknown suppliers are nobody's."""
    return F.coalesce(F.col("supplier_id") == F.col("own_supplier"), F.lit(False))


def updated(kept: DataFrame, new: DataFrame) -> DataFrame:
    """Both together, LISTED. What scores below the lowest of a list that was cut off there stays out: others may lie
    between, that nobody has looked for."""
    lowest = kept.groupBy(*LIST).agg(F.max("lowest").alias("lowest"))
    known = new.join(lowest, list(LIST), "left").where("lowest is null or score >= lowest")
    return kept.select(*LISTED).unionByName(known.select(*LISTED))


def ranked(listed: DataFrame, limits: Neighbours) -> DataFrame:
    """What is kept of each list, with its `rank`: by score, but a supplier's offers beyond `supplier_max` come after
    all others. An unknown supplier is one of its own.

    Of a supplier as many more are kept as of all, so that a withdrawn one can be made up for. That leaves room for all
    that is shown: the first k by `supplier_max` are among the first keep by keep / k times as many.
    """
    best = [F.col("score").desc(), F.col("neighbour_id")]
    turns = listed.withColumn("turn", turn(LIST, best))
    spare = place_by(limits.supplier_max * limits.keep // limits.k, best)
    kept = turns.withColumn("place", spare).where(F.col("place") <= limits.keep)
    return kept.withColumn("rank", place_by(limits.supplier_max, best)).select(*LIST, "rank", "neighbour_id", "score")


def place_by(of_supplier: int, best: list[Column]) -> Column:
    """Place in its list, where so many offers of a supplier come first."""
    return F.row_number().over(Window.partitionBy(*LIST).orderBy(F.col("turn") > of_supplier, *best))


def empty(night: Night, schema: str) -> DataFrame:
    return night.spark.createDataFrame([], schema)
