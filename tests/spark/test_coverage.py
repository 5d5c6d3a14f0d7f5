"""What another encoder has yet to embed, and when it may take over: small tables that can be checked by eye."""

from pyspark.sql import functions as F
from test_changes import attempts, catalogue, keys_of

from samestyle.tables.changes import latest_attempts
from samestyle.tables.coverage import measure_coverage, unfinished


def served(spark, rows):
    """The items that the release was made from: (item_id, content_key), None where nothing served it."""
    return spark.createDataFrame(rows, "item_id string, content_key string")


def items(*names, **changed):
    return [{"item_id": name, "title": changed.get(name, name)} for name in names]


def coverage(rows, latest, baseline):
    found = measure_coverage(rows, latest, baseline, None, "v1", "run")
    return found.wanted, found.finished, found.rejected, found.gone


def test_finished_is_what_no_passing_failure_ended(spark):
    rows = catalogue(spark, *items("good", "bad", "down", "never"))
    keys = keys_of(rows)
    history = (
        {"of": "good"},
        {"of": "bad", "outcome": "rejected", "reason": "too_small"},
        {"of": "down", "outcome": "rejected", "reason": "timeout", "transient": True, "hours_ago": 0},
    )
    latest = latest_attempts(attempts(spark, keys, *history))
    # A night would leave `down` alone until its back-off is over; here somebody waits.
    todo = unfinished(rows, latest).select("content_key", "known_digest").collect()
    assert {(r["content_key"], r["known_digest"]) for r in todo} == {(keys["down"], None), (keys["never"], None)}
    assert coverage(rows, latest, served(spark, list(keys.items()))) == (4, 2, 1, 0)


def test_only_what_serves_and_is_still_there_is_wanted(spark):
    yesterday = keys_of(catalogue(spark, *items("kept", "changed", "gone", "twin")))
    today = catalogue(spark, *items("kept", "changed", "new", "twin", changed="another title", twin="kept"))
    keys = keys_of(today)
    baseline = served(spark, [*((i, yesterday[i]) for i in ("kept", "changed", "gone")), ("twin", keys["kept"])])
    latest = latest_attempts(attempts(spark, keys, {"of": "kept"}))
    # kept and twin share a content; of `changed` the new content counts; gone are its old one and that of `gone`.
    assert coverage(today, latest, baseline) == (2, 1, 0, 2)
    assert coverage(today, latest_attempts(attempts(spark, keys, {"of": "kept"}, {"of": "changed"})), baseline)[1] == 2


def test_items_that_nothing_served_do_not_hold_a_promotion_up(spark):
    rows = catalogue(spark, *items("served", "rejected"))
    keys = keys_of(rows)
    baseline = served(spark, [("served", keys["served"]), ("rejected", None)])
    latest = latest_attempts(attempts(spark, keys, {"of": "served"}))
    assert coverage(rows, latest, baseline) == (1, 1, 0, 0)
    assert [r["content_key"] for r in unfinished(rows.where(F.col("item_id") == "rejected"), latest).collect()] == [
        keys["rejected"]
    ]
