"""Embedding in waves: each is one commit, so that a killed run goes on from what the table holds."""

import math
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Protocol

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from samestyle.encoder.registry import EncoderReference
from samestyle.errors import InputError
from samestyle.progress import Progress
from samestyle.release.lease import Lease
from samestyle.release.manifest import VIEWS
from samestyle.runs import RunFolder
from samestyle.settings import Embed, Settings
from samestyle.tables.counter import Counter
from samestyle.tables.io import Table, only_row
from samestyle.tables.policies import decode_limits, fetch_policy
from samestyle.tables.warehouse import Warehouse


class Embedding(Protocol):
    """Who embeds: a night, or a job beside the nights. The encoder's vectors, under this run, while the lock holds."""

    settings: Settings
    encoder: EncoderReference
    run: RunFolder
    lease: Lease

    @property
    def warehouse(self) -> Warehouse: ...


def embed_waves(todo: DataFrame, by: Embedding, make_udf: Callable[..., Any]) -> int:
    """Attempt these contents, append a row of `embeddings` for each, and return how many there were.

    todo: changes.CONTENT_COLUMNS and known_digest; make_udf: udfs.embed.embed_udf.
    Raises InputError where too many fetches of a wave failed for a transient reason; what was embedded stays.
    """
    limits, table, counter = by.settings.embed, by.warehouse.embeddings, Counter(todo.sparkSession.sparkContext)
    keys = {"encoder_id": by.encoder.encoder_id, "run_id": by.run.run_id}
    outcome = outcome_column(by, make_udf, counter)
    total = todo.count()
    waves = math.ceil(total / limits.wave_rows)
    with Progress("embed", total, counter.values):
        for wave in range(waves):
            by.lease.check()
            rows = todo.where(F.pmod(F.xxhash64("content_key"), F.lit(waves)) == wave) if waves > 1 else todo
            at = datetime.now(UTC)
            tasks = max(2, math.ceil(total / waves / limits.task_rows))
            # Without this, adaptive execution packs the rows after the join, and the UDF with them, into one task.
            attempts = rows.repartition(tasks).select("*", outcome.alias("outcome"))
            table.append(attempt_rows(attempts, keys, at))
            check_transient(table, keys, at, limits)
    return total


def outcome_column(by: Embedding, make_udf: Callable[..., Any], counter: Counter) -> Column:
    """The UDF over a content's columns; what workers may fetch and decode travels with it."""
    how, policy, limits = by.settings.encoder, fetch_policy(by.settings), decode_limits(by.settings)
    embed = make_udf(by.encoder, policy, limits, how.batch_size, how.threads, counter.add)
    return embed(F.col("title"), F.col("image"), F.col("image_uri"), F.col("known_digest"))


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
