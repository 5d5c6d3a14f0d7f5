"""Embedding in waves: each is one commit, so that a killed run goes on from what the table holds."""

import math
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Protocol

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from samestyle.encoder.files import EncoderFiles
from samestyle.encoder.pipeline import DECODES, STAGES, Pipeline
from samestyle.encoder.registry import EncoderFolder, EncoderReference, current_encoder
from samestyle.errors import InputError
from samestyle.progress import Progress
from samestyle.release.lease import Lease
from samestyle.release.store import open_store
from samestyle.runs import RunFolder
from samestyle.settings import Embed, Settings
from samestyle.tables.counter import Counter
from samestyle.tables.io import Table, only_row
from samestyle.tables.job import exported_encoder
from samestyle.tables.placement import BATCH_SIZE, TASK_ROWS, Placement, placement
from samestyle.tables.policies import decode_limits, fetch_policy
from samestyle.tables.schemas import ATTEMPT, CONTENT
from samestyle.tables.versions import map_in_arrow
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

    todo: schemas.CONTENT; make_udf: udfs.embed.embed_udf. Leaves the record `throughput`.
    Raises InputError where too many fetches of a wave failed for a transient reason; what was embedded stays.
    """
    limits, table = by.settings.embed, by.warehouse.embeddings
    keys = {"encoder_id": by.encoder.encoder_id, "run_id": by.run.run_id}
    counter, started = Counter(todo.sparkSession.sparkContext, STAGES), time.monotonic()
    place = placement(todo.sparkSession, by.settings)
    pipeline = replace(pipeline_of(by.settings, place), thumbnails=by.settings.release.display)
    embed = make_udf(by.encoder, pipeline, counter.add)
    total = todo.count()
    waves = math.ceil(total / limits.wave_rows)
    with Progress("embed", total, counter.values, limit=counter.limit):
        for wave in range(waves):
            by.lease.check()
            rows = todo.where(F.pmod(F.xxhash64("content_key"), F.lit(waves)) == wave) if waves > 1 else todo
            at = datetime.now(UTC)
            tasks = tasks_of(total / waves, limits, place)
            # Without this, adaptive execution packs the rows after the join, and the UDF with them, into one task.
            contents = rows.repartition(tasks).select(*CONTENT)
            attempts = map_in_arrow(contents, embed, ATTEMPT, place.profile)
            table.append(attempt_rows(attempts, keys, at))
            check_transient(table, keys, at, limits)
    by.run.write("throughput", throughput(total, time.monotonic() - started, counter))
    return total


def tasks_of(rows: float, limits: Embed, place: Placement) -> int:
    """How many tasks a wave of so many rows is cut into."""
    wanted = max(2, math.ceil(rows / (limits.task_rows or TASK_ROWS[place.device])))
    return min(wanted, place.most_tasks or wanted)


def pipeline_of(settings: Settings, place: Placement = Placement()) -> Pipeline:  # noqa: B008
    """What workers may fetch and decode, how much of it at once, and where they encode."""
    how, at_once = settings.encoder, settings.embed
    decodes = at_once.decode_threads or (place.cores if place.device == "cuda" else DECODES)
    fetches = max(at_once.fetch_threads, 2 * decodes if place.device == "cuda" else 1)
    return Pipeline(
        fetch_policy(settings),
        decode_limits(settings),
        fetches,
        decodes,
        how.batch_size or BATCH_SIZE[place.device],
        how.threads,
        device=place.device,
        precision=how.precision,
    )


def encoder_in_use(settings: Settings) -> EncoderReference | EncoderFolder:
    """What the next run embeds with: the store's current encoder, or the exported one where there is none.

    Raises UsageError where there is neither.
    """
    exported, chosen = exported_encoder(settings), settings.encoder.path is not None
    if (settings.release.store or settings.paths.root) and not chosen:
        store = open_store(settings.store_uri)
        current = current_encoder(store)
        if current is not None:
            return EncoderReference(store, current)
    return EncoderFolder(EncoderFiles.open(exported).folder)


def attempt_rows(outcomes: DataFrame, keys: dict[str, str], at: datetime) -> DataFrame:
    """Rows of schemas.EMBEDDINGS."""
    return outcomes.select(
        F.lit(keys["encoder_id"]).alias("encoder_id"),
        *[name for name in outcomes.columns if name != "thumbnail"],
        F.lit(keys["run_id"]).alias("run_id"),
        F.lit(at).alias("embedded_at"),
        "thumbnail",
    )


def throughput(rows: int, seconds: float, counter: Counter) -> dict[str, Any]:
    """The record `throughput`. busy_s: seconds of all workers together; of what has most there was least."""
    busy = {stage: round(spent, 3) for stage, spent in counter.busy().items()}
    return {"rows": rows, "seconds": round(seconds, 3), "busy_s": busy, "limited_by": counter.limit()}


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
