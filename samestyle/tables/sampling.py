"""From the click log, or from ready pairs, to the table of training pairs. Every rule leaves a line in the funnel."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from samestyle.errors import InputError, RefusedError, UsageError
from samestyle.progress import say
from samestyle.settings import Catalogue
from samestyle.tables import schemas
from samestyle.tables.components import Scratch
from samestyle.tables.facts import Facts, columns_with_values, facts_of, item_facts, newest_vectors
from samestyle.tables.io import only_row
from samestyle.tables.pairs import (
    NO_VECTORS,
    PAIR,
    Rule,
    co_clicks,
    fact_rules,
    group_members,
    item_cap,
    pair_truth,
    vector_rules,
    visit_items,
    with_cosines,
    with_facts,
    with_places,
    with_refusal,
    without_robots,
)
from samestyle.tables.source import as_kind, map_columns, missing, read_raw
from samestyle.tables.versions import try_cast
from samestyle.tables.workshop import Workshop

SPLITS = ("train", "validation", "test")
LARGE_GROUP = 1000


@dataclass(frozen=True)
class Step:
    """A line of the funnel; `unit` is what rows_out counts. skipped: why the rule was not asked; in equals out then."""

    rule: str
    rows_in: int
    rows_out: int
    unit: str
    setting: str = ""
    skipped: str = ""

    def __str__(self) -> str:
        setting = f"  {self.setting}" if self.setting else ""
        told = (
            f"skipped: {self.skipped}" if self.skipped else f"{self.rows_in:>13,} -> {self.rows_out:>13,} {self.unit}"
        )
        return f"pairs: {self.rule:<30}{told}{setting}"


@dataclass
class Funnel:
    """The steps in order; each is printed when it is known."""

    steps: list[Step] = field(default_factory=list)

    @property
    def rows(self) -> int:
        """How many rows the last step has left."""
        return self.steps[-1].rows_out

    def add(self, step: Step) -> None:
        self.steps.append(step)
        say(str(step))

    def then(self, rule: str, rows: DataFrame, unit: str, setting: str = "") -> None:
        """A step from what the last one has left to `rows`."""
        self.add(Step(rule, self.rows, rows.count(), unit, setting))

    def judge(self, pairs: DataFrame, rules: Sequence[Rule]) -> DataFrame:
        """The pairs with `refused`; a step a rule."""
        judged = with_refusal(pairs, rules)
        broken = {row["refused"]: row["count"] for row in judged.groupBy("refused").count().collect()}
        left = sum(broken.values())
        for rule in rules:
            kept = left - broken.get(rule.name, 0)
            self.add(Step(rule.name, left, kept, "pairs", rule.setting, rule.skipped))
            left = kept
        return judged


@dataclass(frozen=True)
class Candidates:
    """Pairs with `refused`: PAIR, category, clicks, relevance, label, and what the rules looked at."""

    rows: DataFrame
    facts: Facts | None
    funnel: Funnel
    notes: list[str]

    @property
    def accepted(self) -> DataFrame:
        return stays(self.rows)


def find_candidates(workshop: Workshop, scratch: Scratch) -> Candidates:
    """The pairs of the click log; or the ready ones, where pairs.path is set."""
    funnel, facts, notes = Funnel(), item_facts(workshop), list[str]()
    say(f"pairs: categories, contents and styles from {facts.origin if facts else 'nowhere: no catalogue is given'}")
    if workshop.settings.pairs.path is None:
        return Candidates(clicked_pairs(workshop, facts, funnel, scratch), facts, funnel, notes)
    rows = ready_pairs(workshop, funnel, scratch)
    if facts is not None and (unknown := count_unknown(stays(rows), facts)):
        notes.append(f"ready pairs with an item that is not known: {unknown:,}; kept, but nothing can train on them")
    return Candidates(rows, facts, funnel, notes)


def clicked_pairs(workshop: Workshop, facts: Facts | None, funnel: Funnel, scratch: Scratch) -> DataFrame:
    """What is clicked together, judged by facts first, then by vectors, as these are large, then by the cap."""
    limits = workshop.settings.pairs
    visits = clicked_visits(workshop, facts, funnel, scratch)
    pairs = scratch.keep(co_clicks(visits))
    funnel.then("clicked together", pairs, "pairs")

    rows = scratch.keep(facts_of(visits, facts))
    by_facts = funnel.judge(scratch.keep(with_facts(pairs, rows)), fact_rules(limits, columns_with_values(rows)))
    embeddings = workshop.warehouse.embeddings_of(workshop.encoder.encoder_id)
    cosines = scratch.keep(with_cosines(stays(by_facts), newest_vectors(rows, embeddings)))
    by_vectors = funnel.judge(cosines, vector_rules(limits, columns_with_values(cosines)))
    by_cap = funnel.judge(scratch.keep(with_places(stays(by_vectors))), [item_cap(limits)])

    refused = [judged.where("refused is not null") for judged in (by_vectors, by_facts)]
    for judged in refused:
        by_cap = by_cap.unionByName(judged, allowMissingColumns=True)
    return by_cap.withColumn("label", F.lit(None).cast("int"))


def stays(pairs: DataFrame) -> DataFrame:
    return pairs.where("refused is null").drop("refused")


def clicked_visits(workshop: Workshop, facts: Facts | None, funnel: Funnel, scratch: Scratch) -> DataFrame:
    """visit, query, item_id: the known items that people clicked in one visit."""
    clicks, most = read_log(workshop, funnel), workshop.settings.pairs.session_items_max
    if facts is None:
        funnel.add(Step("of known items", funnel.rows, funnel.rows, "clicks", skipped="no catalogue"))
    else:
        clicks = clicks.join(facts.rows.select("item_id"), "item_id", "left_semi")
        funnel.then("of known items", clicks, "clicks")
    visits = scratch.keep(visit_items(clicks))
    funnel.then("of a visit, once each", visits, "items of visits")
    human = scratch.keep(without_robots(visits, most))
    funnel.then("of no robot", human, "items of visits", f"pairs.session_items_max={most}")
    return human


def read_log(workshop: Workshop, funnel: Funnel) -> DataFrame:
    """The clicks of the window. Raises UsageError where there is no log, or none with visits; InputError where no time
    can be read."""
    settings, clicks = workshop.settings.clicks, workshop.clicks()
    if clicks is None:
        raise UsageError("no click log is given: set clicks.table or clicks.path, or pairs.path for ready pairs")
    raw, _ = read_raw(workshop.spark, settings)
    mapping = map_columns(raw, settings.columns.model_dump(), "clicks")
    if not mapping.keys() & {"session_id", "user_id"}:
        raise missing("clicks.columns.session_id (or user_id)", "session_id", raw.columns)
    timed, window = mapping.get("clicked_at"), f"clicks.window_days={settings.window_days}"
    time = F.col(f"`{timed}`") if timed else F.lit(None)
    counts = only_row(raw.agg(F.count("*").alias("rows"), F.count(as_kind(time, "timestamp")).alias("times")))
    if timed and counts["rows"] and not counts["times"]:
        raise unreadable_times(raw, time, timed, counts["rows"])
    skipped = "" if timed else "no column clicked_at"
    funnel.add(Step("of the window", counts["rows"], clicks.count(), "clicks", window, skipped))
    return clicks


def unreadable_times(raw: DataFrame, time: Column, column: str, rows: int) -> InputError:
    found = raw.where(time.isNotNull()).select(time.cast("string").alias("text")).first()
    example = repr(found["text"]) if found else "nothing"
    return InputError(
        f"none of {rows:,} clicks has a time that can be read: column {column} (clicks.columns.clicked_at) is "
        f"{raw.schema[column].dataType.simpleString()} and holds {example}; write times as 2026-01-31 12:00:00, "
        "or as seconds since 1970"
    )


def ready_pairs(workshop: Workshop, funnel: Funnel, scratch: Scratch) -> DataFrame:
    """The pairs of pairs.path, once each. A pair that is labelled twice counts as the higher label says."""
    limits = workshop.settings.pairs
    raw, _ = read_raw(workshop.spark, Catalogue(path=limits.path, format=limits.format))
    rows = scratch.keep(with_our_names(raw))
    total = rows.count()
    funnel.add(Step("read", total, total, "pairs", f"pairs.path={limits.path}"))
    rules = [
        Rule("of two offers", F.col("trigger_id") != F.col("offer_id")),
        Rule("no label, or a number", F.col("label").isNotNull() | F.col("label_text").isNull()),
    ]
    judged = funnel.judge(rows, rules)
    facts = [F.max(name).alias(name) for name in ("category", "clicks", "relevance", "label")]
    once = scratch.keep(judged.groupBy(*PAIR, "refused").agg(*facts))
    funnel.then("once each", once.where("refused is null"), "pairs")
    return once


def with_our_names(raw: DataFrame) -> DataFrame:
    """Our own columns, or those of the public pair files: recall_id, and category names of two levels."""
    offer = next((name for name in ("offer_id", "recall_id") if name in raw.columns), None)
    if "trigger_id" not in raw.columns or offer is None:
        absent = "offer_id (or recall_id)" if "trigger_id" in raw.columns else "trigger_id"
        raise missing("pairs.path", absent, raw.columns)
    levels = [F.col(name).cast("string") for name in ("cate_lv1_name", "cate_name") if name in raw.columns]
    category = (
        F.col("category").cast("string")
        if "category" in raw.columns
        else F.nullif(F.concat_ws("/", *levels), F.lit(""))
    )

    def number(name: str, kind: str) -> Column:
        # By way of double: in CSV a label may be 1.0.
        return try_cast(try_cast(F.col(name), "double"), kind) if name in raw.columns else F.lit(None).cast(kind)

    label = F.col("label") if "label" in raw.columns else F.lit(None)
    return raw.select(
        F.col("trigger_id").cast("string").alias("trigger_id"),
        F.col(offer).cast("string").alias("offer_id"),
        category.alias("category"),
        number("clicks", "long").alias("clicks"),
        number("relevance", "float").alias("relevance"),
        number("label", "int").alias("label"),
        label.cast("string").alias("label_text"),
    )


def count_unknown(pairs: DataFrame, facts: Facts) -> int:
    """Pairs of which an end is no known item."""
    ids = facts.rows.select("item_id")
    whole = pairs.join(ids, pairs["trigger_id"] == ids["item_id"], "left_semi")
    other = ids.withColumnRenamed("item_id", "other_id")
    whole = whole.join(other, whole["offer_id"] == other["other_id"], "left_semi")
    return pairs.count() - whole.count()


def describe(candidates: Candidates, pairs: DataFrame) -> dict[str, Any]:
    """What funnel.json says. pairs: the accepted ones with style_group and split."""
    splits = counts_by(pairs, "split")
    members, total = group_members(pairs), sum(splits.values())
    sizes = members.groupBy("style_group").agg(F.count("*").alias("items"))
    row = only_row(
        sizes.agg(F.count("*").alias("groups"), F.max("items").alias("largest"), F.sum("items").alias("items"))
    )
    candidates.funnel.add(Step("linked", total, row["groups"], "style groups"))
    truth, notes = None, [*candidates.notes, *shape_notes(total, row["groups"], row["largest"], splits)]
    if candidates.facts and any(step.skipped == NO_VECTORS for step in candidates.funnel.steps):
        notes.append(
            "nothing was compared by title or photo: the encoder has embedded none of these items; run nightly"
        )
    if candidates.facts is not None and "same_style" in candidates.rows.columns:
        truth = pair_truth(candidates.rows, members, candidates.facts.rows)
    return {
        "facts": candidates.facts.origin if candidates.facts else None,
        "funnel": [asdict(step) for step in candidates.funnel.steps],
        "pairs": total,
        "labels": {str(label): count for label, count in counts_by(pairs, "label").items()},
        "splits": {split: splits.get(split, 0) for split in SPLITS},
        "items": row["items"] or 0,
        "groups": row["groups"],
        "largest_group": row["largest"] or 0,
        "truth": truth,
        "notes": notes,
    }


def counts_by(rows: DataFrame, column: str) -> dict[Any, int]:
    return {row[column]: row["rows"] for row in rows.groupBy(column).agg(F.count("*").alias("rows")).collect()}


def shape_notes(pairs: int, groups: int, largest: int | None, splits: dict[str, int]) -> list[str]:
    """What a person should know before training on these pairs."""
    if not pairs:
        return []
    stricter = "pairs of different styles may chain them together: raise pairs.fused_min or pairs.clicks_min"
    notes = [
        f"split {split} has no pairs: its share of {groups:,} style groups is too small"
        for split in SPLITS
        if not splits.get(split)
    ]
    if groups == 1:
        notes.append(f"all {pairs:,} pairs are in one style group, so that no offer is of another style; {stricter}")
    elif (largest or 0) > LARGE_GROUP:
        notes.append(f"the largest style group has {largest:,} items; {stricter}")
    return notes


def check_pairs(record: dict[str, Any]) -> None:
    """Raises RefusedError where no pair is left: the table keeps what it has."""
    if record["pairs"]:
        return
    emptied = next(step for step in record["funnel"] if not step["rows_out"])
    where = f"'{emptied['rule']}' left 0 of {emptied['rows_in']:,}" if emptied["rows_in"] else "the source has no rows"
    setting = f", see {emptied['setting']}" if emptied["rows_in"] and emptied["setting"] else ""
    raise RefusedError(f"no pair is left, at least 1 is needed: {where}{setting}; the table pairs stays as it is")


def write_pairs(workshop: Workshop, pairs: DataFrame) -> str:
    """Replace the table `pairs` in one commit; returns its version."""
    table = workshop.warehouse.pairs
    workshop.lease.check()
    return table.overwrite(
        pairs.select(*[F.col(name).cast(kind) for name, kind in columns_of(schemas.PAIRS)]), workshop.run.run_id
    )


def closing_lines(record: dict[str, Any]) -> list[str]:
    """What the person who watches reads in the end."""
    splits = ", ".join(f"{split} {count:,}" for split, count in record["splits"].items())
    lines = [
        f"pairs: {record['pairs']:,} of {record['items']:,} offers in {record['groups']:,} style groups ({splits})"
    ]
    if truth := record["truth"]:
        lines.append(
            f"pairs: precision {truth['precision']:.3f} (inside the groups {truth['group_precision']:.3f}), recall "
            f"{truth['recall_of_clicked']:.3f} of the co-clicked, {truth['recall_of_catalogue']:.3f} of all true ones"
        )
    return [*lines, *(f"note: {note}" for note in record["notes"])]


def columns_of(ddl: str) -> list[tuple[str, str]]:
    """(name, type) of each column of a flat DDL."""
    return [(words[0], words[1]) for words in map(str.split, ddl.split(","))]
