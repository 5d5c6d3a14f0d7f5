"""Which contents are attempted, and in which state every row ends: small tables that can be checked by eye."""

from datetime import UTC, datetime, timedelta

import pytest
from pyspark.sql import functions as F

from samestyle.errors import LedgerError
from samestyle.tables import schemas
from samestyle.tables.changes import (
    RefreshRules,
    check_sums,
    contents_to_attempt,
    count_deleted,
    count_states,
    latest_attempts,
    resolve_items,
    with_bytes,
    with_contents,
    with_duplicates,
    without_bytes,
)

NOW = datetime(2026, 3, 2, 3, 0, tzinfo=UTC)
RULES = RefreshRules(NOW, backoff_hours=12, refetch_days=30)
COLUMNS = "item_id string, title string, image binary, image_uri string, image_version string, updated_at timestamp"


def catalogue(spark, *rows):
    """Rows of (item_id, title, image_uri, image_version) or with image bytes and time by name."""
    filled = [
        {
            "item_id": None,
            "title": None,
            "image": None,
            "image_uri": None,
            "image_version": None,
            "updated_at": None,
            **row,
        }
        for row in rows
    ]
    frame = spark.createDataFrame(filled, COLUMNS)
    for name in ("supplier_id", "category", "style_group"):
        frame = frame.withColumn(name, F.lit("x"))
    frame = frame.withColumn("attributes", F.struct(F.lit(None).cast("string").alias("none")))
    return with_duplicates(with_contents(frame, 512))


def attempts(spark, keys, *rows):
    """Rows of the embeddings table; `of` is the item whose content was attempted."""
    filled = []
    for row in rows:
        transient = row.get("transient", False)
        filled.append(
            {
                "encoder_id": "e",
                "content_key": keys[row["of"]],
                "title_hash": None,
                "image_key": None,
                "image_digest": row.get("digest"),
                "outcome": row.get("outcome", "embedded"),
                "reason": row.get("reason"),
                "detail": None,
                "transient": transient,
                "image_vector": None,
                "text_vector": None,
                "fused_vector": None,
                "run_id": row.get("run", "before"),
                "embedded_at": NOW - timedelta(hours=row.get("hours_ago", 24)),
                "thumbnail": None,
            }
        )
    return spark.createDataFrame(filled, schemas.EMBEDDINGS)


def keys_of(rows):
    return {r["item_id"]: r["content_key"] for r in rows.collect() if r["content_key"]}


def test_the_same_title_and_photo_are_one_content_whatever_the_blanks(spark):
    rows = catalogue(
        spark,
        {"item_id": "a", "title": " Red  mug\n", "image_uri": "1.jpg"},
        {"item_id": "b", "title": "Red mug", "image_uri": "1.jpg"},
        {"item_id": "c", "title": "Red mug", "image_uri": "2.jpg"},
        {"item_id": "d", "title": "Red mug", "image_uri": "1.jpg", "image_version": "v2"},
        {"item_id": "e", "title": "  "},
    )
    keys = keys_of(rows)
    assert keys["a"] == keys["b"]
    assert len({keys["a"], keys["c"], keys["d"]}) == 3
    assert "e" not in keys


def test_binary_photos_are_keyed_by_their_bytes(spark):
    rows = catalogue(
        spark,
        {"item_id": "a", "image": b"bytes"},
        {"item_id": "b", "image": b"bytes"},
        {"item_id": "c", "image": b"other"},
    )
    keys = keys_of(rows)
    assert keys["a"] == keys["b"] != keys["c"]


def test_of_several_rows_with_one_id_the_newest_stays(spark):
    rows = catalogue(
        spark,
        {"item_id": "a", "title": "old", "updated_at": NOW - timedelta(days=2)},
        {"item_id": "a", "title": "new", "updated_at": NOW},
        {"item_id": "a", "title": "undated"},
    )
    kept = [r["title"] for r in rows.where("not duplicate").collect()]
    assert kept == ["new"]


def wanted(spark, rows, *history):
    keys = keys_of(rows)
    latest = latest_attempts(attempts(spark, keys, *history))
    todo = {r["content_key"]: r["known_digest"] for r in contents_to_attempt(rows, latest, RULES).collect()}
    return {item: todo[key] for item, key in keys.items() if key in todo}


def test_only_what_was_never_embedded_is_attempted(spark):
    rows = catalogue(spark, {"item_id": "new", "title": "n"}, {"item_id": "known", "title": "k"})
    assert wanted(spark, rows, {"of": "known"}) == {"new": None}


def test_a_transient_failure_is_tried_again_after_the_back_off(spark):
    rows = catalogue(
        spark,
        {"item_id": "soon", "image_uri": "s", "image_version": "1"},
        {"item_id": "rested", "image_uri": "r", "image_version": "1"},
        {"item_id": "final", "image_uri": "f", "image_version": "1"},
    )
    failed = {"outcome": "rejected", "reason": "timeout", "transient": True}
    found = wanted(
        spark,
        rows,
        {"of": "soon", "hours_ago": 11, **failed},
        {"of": "rested", "hours_ago": 13, **failed},
        {"of": "final", "hours_ago": 13, "outcome": "rejected", "reason": "truncated"},
    )
    assert found == {"rested": None}


def test_uris_without_a_version_are_fetched_again_with_the_known_digest(spark):
    rows = catalogue(
        spark,
        {"item_id": "old", "image_uri": "o"},
        {"item_id": "young", "image_uri": "y"},
        {"item_id": "broken", "image_uri": "b", "title": "b"},
        {"item_id": "versioned", "image_uri": "v", "image_version": "1"},
    )
    found = wanted(
        spark,
        rows,
        {"of": "old", "hours_ago": 31 * 24, "digest": "d1"},
        {"of": "young", "hours_ago": 29 * 24, "digest": "d2"},
        {"of": "broken", "hours_ago": 13, "outcome": "degraded", "reason": "truncated", "digest": "d3"},
        {"of": "versioned", "hours_ago": 400 * 24, "digest": "d4"},
    )
    assert found == {"old": "d1", "broken": None}


def test_the_back_off_doubles_with_each_failure_in_a_row_up_to_the_age_of_a_refetch(spark):
    """12 hours after the first, 24 after the second, 48 after the third; a good attempt in between starts anew."""
    names = ("second", "second_rested", "third", "recovered", "dead", "dead_rested")
    rows = catalogue(spark, *({"item_id": name, "image_uri": name} for name in names))

    def failed(name, *hours_ago):
        down = {"of": name, "outcome": "rejected", "reason": "timeout", "transient": True}
        return [down | {"hours_ago": hours} for hours in hours_ago]

    month = 30 * 24
    found = wanted(
        spark,
        rows,
        *failed("second", 40, 23),
        *failed("second_rested", 40, 25),
        *failed("third", 90, 70, 47),
        *failed("recovered", 90, 70, 13),
        {"of": "recovered", "hours_ago": 50, "digest": "d"},
        *failed("dead", *range(month - 1, month + 40)),
        *failed("dead_rested", *range(month, month + 40)),
    )
    assert found == {"second_rested": None, "recovered": "d", "dead_rested": None}


def test_a_row_without_an_id_costs_no_encoder_call(spark):
    rows = catalogue(spark, {"title": "nameless"}, {"item_id": "", "title": "empty"}, {"item_id": "a", "title": "a"})
    todo = contents_to_attempt(rows, latest_attempts(attempts(spark, {})), RULES)
    assert [r["title"] for r in todo.collect()] == ["a"]


def test_photos_of_a_binary_column_are_carried_for_the_contents_to_attempt_alone(spark):
    photos = [("a", b"photo one"), ("b", b"photo one"), ("c", b"photo two"), ("d", None)]
    contents = catalogue(spark, *({"item_id": name, "image": image, "title": "mug"} for name, image in photos))
    rows = without_bytes(contents)
    assert {bytes(r["image"]) for r in rows.where("image is not null").collect()} == {b""}
    assert keys_of(rows) == keys_of(contents)
    latest = latest_attempts(attempts(spark, keys_of(rows), {"of": "c"}))
    todo = with_bytes(contents_to_attempt(rows, latest, RULES), contents).collect()
    images = {r["content_key"]: r["image"] and bytes(r["image"]) for r in todo}
    assert images == {keys_of(rows)["a"]: b"photo one", keys_of(rows)["d"]: None}


def states(spark, rows, history, baseline=None):
    keys = keys_of(rows)
    latest = latest_attempts(attempts(spark, keys, *history))
    before = baseline if baseline is not None else spark.createDataFrame([], schemas.items("struct<none: string>"))
    return resolve_items(rows, latest, before, "tonight", NOW)


def test_every_row_ends_in_one_state(spark):
    rows = catalogue(
        spark,
        {"item_id": "fresh", "title": "1"},
        {"item_id": "reused", "title": "2"},
        {"item_id": "degraded", "title": "3", "image_uri": "broken"},
        {"item_id": "rejected", "image_uri": "truncated"},
        {"item_id": "stale", "title": "4", "image_uri": "timeout"},
        {"item_id": "never", "title": "5", "image_uri": "timeout too"},
        {"item_id": "empty"},
        {"item_id": "twice", "title": "6"},
        {"item_id": "twice", "title": "6"},
        {"title": "no id"},
    )
    failed = {"outcome": "rejected", "reason": "timeout", "transient": True, "run": "tonight", "hours_ago": 0}
    history = [
        {"of": "fresh", "run": "tonight", "hours_ago": 0},
        {"of": "reused"},
        {"of": "degraded", "outcome": "degraded", "reason": "truncated"},
        {"of": "rejected", "outcome": "rejected", "reason": "truncated"},
        {"of": "stale", "hours_ago": 48},
        {"of": "stale", **failed},
        {"of": "never", **failed},
        {"of": "twice"},
    ]
    found = sorted((r["item_id"] or "", r["state"], r["reason"]) for r in states(spark, rows, history).collect())
    assert found == [
        ("", "rejected", "no_item_id"),
        ("degraded", "degraded", "truncated"),
        ("empty", "rejected", "nothing_to_embed"),
        ("fresh", "fresh", None),
        ("never", "rejected", "timeout"),
        ("rejected", "rejected", "truncated"),
        ("reused", "reused", None),
        ("stale", "stale", "timeout"),
        ("twice", "rejected", "duplicate_id"),
        ("twice", "reused", None),
    ]
    counts = count_states(states(spark, rows, history))
    assert counts == {"read": 10, "fresh": 1, "reused": 2, "stale": 1, "degraded": 1, "rejected": 5}
    check_sums(counts)


def test_a_new_photo_that_cannot_be_fetched_yet_leaves_the_former_content_serving(spark):
    before = catalogue(spark, {"item_id": "a", "title": "mug", "image_uri": "old"})
    baseline = states(spark, before, [{"of": "a", "hours_ago": 48}])
    former = keys_of(before)["a"]
    today = catalogue(spark, {"item_id": "a", "title": "mug", "image_uri": "new"})
    failed = {"of": "a", "outcome": "rejected", "reason": "timeout", "transient": True}
    row = states(spark, today, [failed], baseline).first()
    assert (row["state"], row["content_key"]) == ("stale", former)
    assert row["wanted_key"] == keys_of(today)["a"] != former
    assert row["first_seen_at"] == baseline.first()["first_seen_at"]


def test_an_unchanged_refetch_reuses_the_vectors(spark):
    rows = catalogue(spark, {"item_id": "a", "image_uri": "u"})
    history = [
        {"of": "a", "hours_ago": 800},
        {"of": "a", "hours_ago": 0, "outcome": "unchanged", "run": "tonight"},
    ]
    row = states(spark, rows, history).first()
    assert (row["state"], row["served_at"].replace(tzinfo=UTC)) == ("reused", NOW - timedelta(hours=800))


def one_state(spark, rows, history, baseline=None):
    row = states(spark, rows, history, baseline).first()
    return row["state"], row["reason"], row["served_at"] and row["served_at"].replace(tzinfo=UTC)


def test_a_refetch_that_finds_another_photo_serves_its_vectors(spark):
    rows = catalogue(spark, {"item_id": "a", "image_uri": "u"})
    history = [{"of": "a", "hours_ago": 800, "digest": "old"}, {"of": "a", "hours_ago": 0, "run": "tonight"}]
    assert one_state(spark, rows, history) == ("fresh", None, NOW)


def test_a_degraded_item_gets_well_and_a_good_one_may_degrade(spark):
    rows = catalogue(spark, {"item_id": "a", "title": "mug", "image_uri": "u"})
    broken = {"of": "a", "outcome": "degraded", "reason": "truncated"}
    good = {"of": "a", "digest": "d"}
    later = {"hours_ago": 0, "run": "tonight"}
    assert one_state(spark, rows, [broken, good | later]) == ("fresh", None, NOW)
    assert one_state(spark, rows, [good, broken | later]) == ("degraded", "truncated", NOW)
    down = {"of": "a", "outcome": "rejected", "reason": "timeout", "transient": True} | later
    assert one_state(spark, rows, [broken, down]) == ("stale", "timeout", NOW - timedelta(hours=24))


def test_what_was_rejected_for_good_stays_so_while_its_photo_cannot_be_fetched(spark):
    rows = catalogue(spark, {"item_id": "a", "image_uri": "u"})
    history = [
        {"of": "a", "outcome": "rejected", "reason": "truncated"},
        {"of": "a", "outcome": "rejected", "reason": "timeout", "transient": True, "hours_ago": 0, "run": "tonight"},
    ]
    assert one_state(spark, rows, history) == ("rejected", "truncated", None)


def test_a_returning_item_is_reused_and_first_seen_tonight(spark):
    rows = catalogue(spark, {"item_id": "a", "title": "mug"})
    baseline = states(spark, catalogue(spark, {"item_id": "b", "title": "pot"}), [])
    found = states(spark, rows, [{"of": "a", "hours_ago": 999}], baseline).first()
    assert found["state"] == "reused"
    assert found["first_seen_at"].replace(tzinfo=UTC) == NOW


def test_a_changed_title_is_another_content_and_the_old_one_comes_back_at_no_cost(spark):
    before = catalogue(spark, {"item_id": "a", "title": "mug"})
    after = catalogue(spark, {"item_id": "a", "title": "red mug"})
    history = attempts(spark, keys_of(before), {"of": "a"})
    todo = [contents_to_attempt(rows, latest_attempts(history), RULES).count() for rows in (after, before)]
    assert todo == [1, 0]


def test_vectors_of_another_encoder_cannot_serve_a_stale_item(spark):
    before = catalogue(spark, {"item_id": "a", "title": "mug", "image_uri": "old"})
    baseline = states(spark, before, [{"of": "a", "hours_ago": 48}])
    rows = catalogue(spark, {"item_id": "a", "title": "mug", "image_uri": "new"})
    down = {"of": "a", "outcome": "rejected", "reason": "timeout", "transient": True}
    latest = latest_attempts(attempts(spark, keys_of(rows), down))
    found = [resolve_items(rows, latest, baseline, "tonight", NOW, same).first()["state"] for same in (True, False)]
    assert found == ["stale", "rejected"]


def test_deleted_are_the_served_items_that_are_gone(spark):
    before = catalogue(spark, {"item_id": "a", "title": "1"}, {"item_id": "b", "title": "2"}, {"item_id": "c"})
    baseline = states(spark, before, [{"of": "a"}, {"of": "b"}])
    today = states(spark, catalogue(spark, {"item_id": "a", "title": "1"}), [{"of": "a"}])
    assert count_deleted(today, baseline) == 1


def test_sums_that_do_not_add_up_end_the_run():
    counts = {"read": 3, "fresh": 1, "reused": 1, "stale": 0, "degraded": 0, "rejected": 0}
    with pytest.raises(LedgerError, match=r"3 catalogue rows were read, but 1 fresh .* is 2"):
        check_sums(counts)
