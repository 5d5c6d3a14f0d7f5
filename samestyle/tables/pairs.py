"""Training pairs: what is clicked together, rule by rule, down to groups of one style and their split.

All of it is Spark SQL; no Python function runs here. Pairs are rows of trigger_id and offer_id; `refused` names the
first rule that a pair breaks, null for none.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from samestyle.settings import Pairs
from samestyle.tables.components import Scratch, connected_components
from samestyle.tables.io import only_row

PAIR = ("trigger_id", "offer_id")
SPLIT_STEPS = 1_000_000
NO_VECTORS = "no vectors"


@dataclass(frozen=True)
class Rule:
    """A pair stays where `passes` is true. `skipped`: why the rule cannot be asked, such as a missing column."""

    name: str
    passes: Column
    setting: str = ""
    skipped: str = ""


def visit_items(clicks: DataFrame) -> DataFrame:
    """visit, query, item_id, once each: a visit is a session, else what a user did on one day.

    Clicks of neither are left out.
    """
    day = F.coalesce(F.to_date("clicked_at").cast("string"), F.lit(""))
    of_user = F.concat(F.lit("user "), day, F.lit(" "), "user_id")
    visit = F.coalesce(F.concat(F.lit("session "), "session_id"), of_user)
    rows = clicks.select(visit.alias("visit"), "query", "item_id")
    return rows.where("visit is not null and item_id is not null").distinct()


def without_robots(visits: DataFrame, most: int) -> DataFrame:
    """The visits of at most `most` distinct items, whatever their queries."""
    sizes = visits.groupBy("visit").agg(F.count_distinct("item_id").alias("items"))
    return visits.join(sizes.where(F.col("items") <= most), "visit", "left_semi")


def co_clicks(visits: DataFrame) -> DataFrame:
    """trigger_id < offer_id clicked in one visit and, where it is known, under one query; `clicks`: in how many visits.

    The items of a visit come together in one row, so that n of them make n (n - 1) / 2 pairs and no more.
    """
    items = visits.groupBy("visit", "query").agg(F.array_sort(F.collect_set("item_id")).alias("items"))
    pairs = F.expr("""
        flatten(transform(items, (trigger, place) -> transform(
            slice(items, place + 2, size(items)), offer -> struct(trigger as trigger_id, offer as offer_id))))
    """)
    several = items.where(F.size("items") > 1).select("visit", F.explode(pairs).alias("pair"))
    counted = several.groupBy("pair").agg(F.count_distinct("visit").alias("clicks"))
    return counted.select("pair.*", "clicks")


def with_facts(pairs: DataFrame, facts: DataFrame) -> DataFrame:
    """Adds what facts say of both ends: category (the trigger's), trigger_content, offer_content, and same_category,
    same_content, same_style."""
    ends = ("category", "content_key", "style_group")
    for end in ("trigger", "offer"):
        own = facts.select(F.col("item_id").alias(f"{end}_id"), *[F.col(name).alias(f"{end}_{name}") for name in ends])
        pairs = pairs.join(own, f"{end}_id", "left")
    return pairs.select(
        *PAIR,
        "clicks",
        F.col("trigger_category").alias("category"),
        F.col("trigger_content_key").alias("trigger_content"),
        F.col("offer_content_key").alias("offer_content"),
        F.col("trigger_category").eqNullSafe(F.col("offer_category")).alias("same_category"),
        F.coalesce(F.col("trigger_content_key") == F.col("offer_content_key"), F.lit(False)).alias("same_content"),
        (F.col("trigger_style_group") == F.col("offer_style_group")).alias("same_style"),
    )


def with_cosines(pairs: DataFrame, vectors: DataFrame) -> DataFrame:
    """Adds title_cosine and relevance, float, null where an end has no such vector.

    vectors: content_key, text_vector, fused_vector, of length 1.
    """
    for end in ("trigger", "offer"):
        names = [F.col(f"{view}_vector").alias(f"{end}_{view}") for view in ("text", "fused")]
        own = vectors.select(F.col("content_key").alias(f"{end}_content"), *names)
        pairs = pairs.join(own, f"{end}_content", "left")
    return pairs.withColumns({"title_cosine": cosine("text"), "relevance": cosine("fused")}).drop(
        "trigger_text", "offer_text", "trigger_fused", "offer_fused"
    )


def cosine(view: str) -> Column:
    """Of the vectors of both ends, which have length 1; summed in double."""
    products = f"zip_with(trigger_{view}, offer_{view}, (x, y) -> double(x) * double(y))"
    return F.expr(f"float(aggregate({products}, 0D, (sum, product) -> sum + product))")


def fact_rules(limits: Pairs, known: frozenset[str]) -> list[Rule]:
    """The rules that need no vectors. known: the facts' columns that have values."""
    clicks = F.col("clicks") >= limits.clicks_min
    return [
        Rule("clicked together often enough", clicks, f"pairs.clicks_min={limits.clicks_min}"),
        Rule(
            "the same leaf category", F.col("same_category"), skipped=unless("category" in known, "no column category")
        ),
        Rule(
            "not the same content",
            ~F.col("same_content"),
            skipped=unless("content_key" in known, "no titles or photos"),
        ),
    ]


def vector_rules(limits: Pairs, known: frozenset[str]) -> list[Rule]:
    """The rules about cosines. known: the columns of with_cosines that have values.

    A pair of which an offer has no title is left to the rule of the fused vectors.
    """
    title = F.col("title_cosine").isNull() | (F.col("title_cosine") >= limits.title_min)
    fused, no_titles = F.col("relevance") >= limits.fused_min, unless("title_cosine" in known, "no vectors of titles")
    return [
        Rule("similar titles", title, f"pairs.title_min={limits.title_min:g}", no_titles),
        Rule(
            "similar as a whole",
            fused,
            f"pairs.fused_min={limits.fused_min:g}",
            unless("relevance" in known, NO_VECTORS),
        ),
    ]


def unless(there: bool, reason: str) -> str:
    return "" if there else reason


def with_refusal(pairs: DataFrame, rules: Sequence[Rule]) -> DataFrame:
    """Adds `refused`: the first rule that the pair breaks. What a rule cannot decide, it refuses."""
    broken = [F.when(~F.coalesce(rule.passes, F.lit(False)), rule.name) for rule in rules if not rule.skipped]
    return pairs.withColumn("refused", F.coalesce(F.lit(None).cast("string"), *broken))


def item_cap(limits: Pairs) -> Rule:
    """For the rows of with_places."""
    within = F.col("place") <= limits.per_item_max
    return Rule("among the offer's most clicked", within, f"pairs.per_item_max={limits.per_item_max}")


def with_places(pairs: DataFrame) -> DataFrame:
    """Adds `place`: the pair's place among those of its trigger or of its offer, the worse one; 1 is the most clicked.

    So at most n pairs of any offer have a place of n or less.
    """
    best = Window.partitionBy("item_id").orderBy(
        F.col("clicks").desc(), F.col("relevance").desc_nulls_last(), F.xxhash64(*PAIR), *PAIR
    )
    ends = pairs.select(*PAIR, "clicks", "relevance", F.explode(F.array(*PAIR)).alias("item_id"))
    places = ends.withColumn("place", F.row_number().over(best)).groupBy(*PAIR).agg(F.max("place").alias("place"))
    return pairs.join(places, list(PAIR))


def with_groups(pairs: DataFrame, limits: Pairs, scratch: Scratch) -> DataFrame:
    """Adds style_group (long) and split. Pairs link their ends to one group, unless their label is 0.

    A group is named by the least hash of its items, which mostly stays as it is when the group gains or loses some; the
    split follows the name. A pair of label 0 belongs to its trigger's group.
    """
    node = F.xxhash64("trigger_id")
    links = pairs.where("label is null or label > 0").select(node.alias("a"), F.xxhash64("offer_id").alias("b"))
    groups = connected_components(links, scratch)
    named = pairs.withColumn("node", node).join(groups, "node", "left")
    named = named.withColumn("style_group", F.coalesce("component", "node")).drop("node", "component")
    return named.withColumn("split", split_of(F.col("style_group"), limits))


def split_of(group: Column, limits: Pairs) -> Column:
    """train, validation or test, by a hash of the group and the seed."""
    place = F.pmod(F.xxhash64(group, F.lit(limits.seed)), F.lit(SPLIT_STEPS)) / SPLIT_STEPS
    validation = limits.test_share + limits.validation_share
    return F.when(place < limits.test_share, "test").when(place < validation, "validation").otherwise("train")


def group_members(pairs: DataFrame) -> DataFrame:
    """item_id, style_group, once each, for the ends of the pairs that link."""
    links = pairs.where("label is null or label > 0")
    return links.select(F.explode(F.array(*PAIR)).alias("item_id"), "style_group").distinct()


def pair_truth(candidates: DataFrame, members: DataFrame, facts: DataFrame) -> dict[str, float | int] | None:
    """How right the pairs are by the true styles; None where no accepted pair has them at both ends.

    candidates: with refused, same_style, same_content; members: group_members; facts: item_id, content_key,
    style_group. Pairs of one content are no training pairs, so that they are nowhere counted as missed.
    """
    kept, true = F.col("refused").isNull(), F.coalesce("same_style", F.lit(False))
    row = only_row(
        candidates.agg(
            F.count_if(kept & F.col("same_style").isNotNull()).alias("pairs"),
            F.count_if(kept & true).alias("true"),
            F.count_if(true & ~F.col("same_content")).alias("clicked"),
        )
    )
    if not row["pairs"]:
        return None
    possible = count_within(facts, "style_group") - count_within(facts, "style_group", "content_key")
    styled = members.join(facts.select("item_id", F.col("style_group").alias("style")), "item_id")
    grouped = count_within(styled.where("style is not null"), "style_group")
    return {
        "pairs": row["pairs"],
        "precision": row["true"] / row["pairs"],
        "recall_of_clicked": row["true"] / max(row["clicked"], 1),
        "recall_of_catalogue": row["true"] / max(possible, 1),
        "group_precision": count_within(styled, "style_group", "style") / max(grouped, 1),
    }


def count_within(rows: DataFrame, *keys: str) -> int:
    """How many pairs of rows agree in all of `keys`; null agrees with nothing."""
    sizes = rows.dropna(subset=list(keys)).groupBy(*keys).count()
    return only_row(sizes.agg(F.expr("coalesce(sum(count * (count - 1) div 2), 0)").alias("pairs")))["pairs"]
