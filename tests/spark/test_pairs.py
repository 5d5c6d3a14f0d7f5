"""The rules of training pairs, each on a table that can be checked by eye."""

import pytest
from pyspark.sql import functions as F

from samestyle.settings import Pairs
from samestyle.tables.components import Scratch
from samestyle.tables.pairs import (
    co_clicks,
    fact_rules,
    pair_truth,
    split_of,
    vector_rules,
    visit_items,
    with_cosines,
    with_facts,
    with_groups,
    with_places,
    with_refusal,
    without_robots,
)

CLICKS = "user_id string, session_id string, item_id string, query string, clicked_at timestamp"
FACTS = "item_id string, content_key string, category string, style_group string"
ALL = frozenset({"category", "content_key", "title_cosine", "relevance"})


def clicks(spark, *rows):
    """Rows of (user, session, item, query, day of January 2026)."""
    frame = spark.createDataFrame(rows, "user_id string, session_id string, item_id string, query string, day int")
    at = F.expr("if(day is null, null, make_timestamp(2026, 1, day, 12, 0, 0))")
    return frame.withColumn("clicked_at", at).drop("day")


def pairs_of(frame) -> dict[str, int]:
    return {row["trigger_id"] + row["offer_id"]: row["clicks"] for row in frame.collect()}


def test_a_visit_is_a_session_else_a_users_day_and_queries_keep_apart(spark):
    log = clicks(
        spark,
        ("u", "s1", "b", None, 1),
        ("u", "s1", "a", None, 2),  # one session over midnight
        ("u", "s1", "a", None, 2),  # clicked again: the same click
        ("w", "s2", "a", None, 1),
        ("w", "s2", "b", None, 1),
        ("x", None, "a", None, 1),
        ("x", None, "c", None, 1),
        ("x", None, "d", None, 2),  # another day
        ("y", "s3", "e", "mug", 1),
        ("y", "s3", "f", "mug", 1),
        ("y", "s3", "g", "cup", 1),  # another query
        (None, None, "a", None, 1),  # of nobody
        (None, None, "z", None, 1),
        ("v", "s4", "e", "pot", 1),
        ("v", "s4", "f", "pot", 1),
        ("v", "s4", "e", "jug", 1),  # one visit, two queries: counted once
        ("v", "s4", "f", "jug", 1),
    )
    assert pairs_of(co_clicks(visit_items(log))) == {"ab": 2, "ac": 1, "ef": 2}


def test_robots_are_left_out_whatever_their_queries(spark):
    log = clicks(
        spark,
        *[("r", "robot", f"i{n}", f"q{n}", 1) for n in range(4)],
        *[("u", "s", f"i{n}", None, 1) for n in range(3)],
    )
    visits = visit_items(log)
    assert {row["visit"] for row in without_robots(visits, 3).collect()} == {"session s"}
    assert {row["visit"] for row in without_robots(visits, 4).collect()} == {"session s", "session robot"}


@pytest.fixture
def judged(spark):
    """Refusals of pairs of: a, b (one style); c (another category); d (a's content); n (no title); far from all: f."""
    facts = [
        ("a", "ka", "mugs", "1"),
        ("b", "kb", "mugs", "1"),
        ("c", "kc", "cups", "1"),
        ("d", "ka", "mugs", "1"),
        ("n", "kn", "mugs", None),
        ("f", "kf", "mugs", "2"),
    ]
    vectors = [
        ("ka", [1.0, 0.0], [1.0, 0.0]),
        ("kb", [0.6, 0.8], [0.8, 0.6]),
        ("kc", [1.0, 0.0], [1.0, 0.0]),
        ("kn", None, [1.0, 0.0]),
        ("kf", [1.0, 0.0], [0.0, 1.0]),
    ]
    pairs = [("a", "b", 2), ("a", "c", 9), ("a", "d", 9), ("a", "n", 2), ("a", "f", 2), ("b", "n", 1), ("a", "?", 2)]
    with_both = with_facts(
        spark.createDataFrame(pairs, "trigger_id string, offer_id string, clicks long"),
        spark.createDataFrame(facts, FACTS),
    )
    table = spark.createDataFrame(vectors, "content_key string, text_vector array<float>, fused_vector array<float>")
    return with_cosines(with_both, table)


def refusals(pairs, limits: Pairs, known=ALL) -> dict[str, str | None]:
    rules = [*fact_rules(limits, known), *vector_rules(limits, known)]
    return {row["trigger_id"] + row["offer_id"]: row["refused"] for row in with_refusal(pairs, rules).collect()}


def test_a_pair_is_refused_by_the_first_rule_that_it_breaks(judged):
    assert refusals(judged, Pairs(clicks_min=2, title_min=0.5, fused_min=0.7)) == {
        "ab": None,
        "ac": "the same leaf category",
        "ad": "not the same content",
        "an": None,  # no title: left to the fused vectors
        "af": "similar as a whole",
        "bn": "clicked together often enough",
        "a?": "the same leaf category",
    }
    assert refusals(judged, Pairs(title_min=0.7, fused_min=0.7))["ab"] == "similar titles"


def test_rules_without_their_column_refuse_nothing(judged):
    rules = [*fact_rules(Pairs(), frozenset()), *vector_rules(Pairs(), frozenset())]
    assert [rule.skipped for rule in rules] == [
        "",
        "no column category",
        "no titles or photos",
        "no vectors of titles",
        "no vectors",
    ]
    assert set(refusals(judged, Pairs(), frozenset()).values()) == {None}


def test_cosines_are_those_of_the_vectors(judged):
    found = {row["trigger_id"] + row["offer_id"]: (row["title_cosine"], row["relevance"]) for row in judged.collect()}
    assert found["ab"] == pytest.approx((0.6, 0.8))
    assert found["an"] == (None, 1.0)
    assert found["a?"] == (None, None)


def test_the_cap_keeps_the_most_clicked_pairs_of_every_offer(spark):
    """Hub h has three pairs; with two allowed its least clicked one goes, although its other end has no other."""
    rows = [("a", "h", 5, None), ("b", "h", 4, 0.9), ("c", "h", 4, 0.8), ("b", "c", 1, None)]
    frame = spark.createDataFrame(rows, "trigger_id string, offer_id string, clicks long, relevance float")
    places = {row["trigger_id"] + row["offer_id"]: row["place"] for row in with_places(frame).collect()}
    assert places == {"ah": 1, "bh": 2, "ch": 3, "bc": 2}


def test_groups_follow_links_and_a_label_0_links_nothing(spark, tmp_path):
    rows = [("a", "b", None), ("b", "c", 1), ("c", "x", 0), ("x", "y", 1), ("l", "a", 0)]
    frame = spark.createDataFrame(rows, "trigger_id string, offer_id string, label int")
    with Scratch(spark, tmp_path / "scratch") as scratch:
        found = with_groups(frame, Pairs(), scratch).collect()
    groups = {row["trigger_id"] + row["offer_id"]: row["style_group"] for row in found}
    assert groups["ab"] == groups["bc"] == groups["cx"]
    assert len({groups["ab"], groups["xy"], groups["la"]}) == 3
    hashes = spark.sql("select min(xxhash64(item)) as least from values ('a'), ('b'), ('c') as t(item)").first()
    assert groups["ab"] == hashes["least"]


def test_the_split_follows_the_group_the_seed_and_the_shares(spark):
    """1,000 groups: about 300 to test, 200 to validate on; 5 standard deviations are 72 and 63."""
    limits = {seed: Pairs(validation_share=0.2, test_share=0.3, seed=seed) for seed in (0, 1)}
    columns = [split_of(F.col("id"), limits[seed]).alias(f"seed{seed}") for seed in limits]
    rows = spark.range(-500, 500).select(*columns).collect()
    splits = [row["seed0"] for row in rows]
    assert splits.count("test") == pytest.approx(300, abs=72)
    assert splits.count("validation") == pytest.approx(200, abs=63)
    assert splits.count("train") == 1000 - splits.count("test") - splits.count("validation")
    assert splits != [row["seed1"] for row in rows]


def test_precision_and_recall_by_hand(spark):
    """Style 1: a, b, c, and d, which has a's content; style 2: x, y. Kept: ab (true), ax (false), bc (true)."""
    facts = [
        ("a", "ka", "", "1"),
        ("b", "kb", "", "1"),
        ("c", "kc", "", "1"),
        ("d", "ka", "", "1"),
        ("x", "kx", "", "2"),
        ("y", "ky", "", "2"),
    ]
    rows = [
        ("ab", None, True, False),
        ("ax", None, False, False),
        ("bc", None, True, False),
        ("xy", "similar titles", True, False),
        ("ad", "not the same content", True, True),
        ("a?", None, None, False),
    ]
    candidates = spark.createDataFrame(rows, "pair string, refused string, same_style boolean, same_content boolean")
    members = spark.createDataFrame([(item, 7) for item in "abcx"], "item_id string, style_group long")
    truth = pair_truth(candidates, members, spark.createDataFrame(facts, FACTS))
    assert truth == {
        "pairs": 3,
        "precision": pytest.approx(2 / 3),
        "recall_of_clicked": pytest.approx(2 / 3),  # ab, bc of ab, bc, xy
        "recall_of_catalogue": pytest.approx(2 / 6),  # 6 pairs within style 1 and 1 within 2, less ad
        "group_precision": pytest.approx(3 / 6),  # of the 6 pairs within abcx, ab, ac, bc
    }


def test_times_are_read_from_timestamps_numbers_and_text(spark):
    from samestyle.tables.source import as_kind

    rows = spark.createDataFrame(
        [("2023-11-14 22:13:20", 1700000000, "1700000000"), ("no time", None, "1700000000.0")],
        "written string, seconds long, text string",
    )
    read = rows.select(*(as_kind(F.col(name), "timestamp").cast("long").alias(name) for name in rows.columns)).collect()
    assert [tuple(row) for row in read] == [(1700000000,) * 3, (None, None, 1700000000)]
