"""Embedding in waves: each is one commit, so that a killed run goes on from what the table holds."""

import math
from collections.abc import Callable
from datetime import UTC, datetime

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from samestyle.errors import InputError
from samestyle.progress import Progress
from samestyle.release.manifest import VIEWS
from samestyle.settings import Embed
from samestyle.tables.counter import Counter
from samestyle.tables.io import Table, only_row


def embed_waves(
    todo: DataFrame,
    total: int,
    table: Table,
    outcome: Column,
    keys: dict[str, str],
    limits: Embed,
    counter: Counter,
    before_commit: Callable[[], None],
) -> None:
    """Attempt `total` contents and append one row for each.

    todo: contents_to_attempt; outcome: the embedding UDF's column over it; keys: encoder_id and run_id.
    Raises InputError where too many fetches of a wave failed for a transient reason; what was embedded stays.
    """
    waves = math.ceil(total / limits.wave_rows)
    with Progress("embed", total, counter.values):
        for wave in range(waves):
            before_commit()
            rows = todo.where(F.pmod(F.xxhash64("content_key"), F.lit(waves)) == wave) if waves > 1 else todo
            at = datetime.now(UTC)
            tasks = max(2, math.ceil(total / waves / limits.task_rows))
            # Without this, adaptive execution packs the rows after the join, and the UDF with them, into one task.
            attempts = rows.repartition(tasks).select("*", outcome.alias("outcome"))
            table.append(attempt_rows(attempts, keys, at))
            check_transient(table, keys, at, limits)


def attempt_rows(attempts: DataFrame, keys: dict[str, str], at: datetime) -> DataFrame:
    """Rows of schemas.EMBEDDINGS; the UDF's empty lists, which stand for no vector, become null."""
    fields = ("image_digest", "outcome", "reason", "detail", "transient")
    vectors = {view: F.col(f"outcome.{view}_vector") for view in VIEWS}
    return attempts.select(
        F.lit(keys["encoder_id"]).alias("encoder_id"),
        "content_key",
        "title_hash",
        "image_key",
        *[F.col(f"outcome.{name}").alias(name) for name in fields],
        *[F.when(F.size(vector) > 0, vector).alias(f"{view}_vector") for view, vector in vectors.items()],
        F.lit(keys["run_id"]).alias("run_id"),
        F.lit(at).alias("embedded_at"),
    )


def check_transient(table: Table, keys: dict[str, str], at: datetime, limits: Embed) -> None:
    """A dead image server must not take products off the site: stop before the day's items are written."""
    wave = table.read().where((F.col("run_id") == keys["run_id"]) & (F.col("embedded_at") == F.lit(at)))
    counted = only_row(wave.agg(F.count("*").alias("rows"), F.count_if("transient").alias("failed")))
    failed = counted["failed"]
    if failed >= limits.transient_min and failed > limits.transient_max * counted["rows"]:
        raise InputError(
            f"{failed:,} of {counted['rows']:,} contents of a wave failed for a transient reason, at most "
            f"{limits.transient_max:.0%} may (embed.transient_max): "
            "is the image server up? What was embedded is kept; run again"
        )
