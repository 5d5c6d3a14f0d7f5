"""What a run would do, counted but not done: `--dry-run`."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from samestyle.progress import clock
from samestyle.release.manifest import Manifest
from samestyle.release.publish import load_manifest
from samestyle.release.store import Store
from samestyle.runs import list_runs
from samestyle.settings import Settings
from samestyle.tables.changes import (
    RefreshRules,
    contents_to_attempt,
    latest_attempts,
    with_contents,
    with_duplicates,
    without_bytes,
)
from samestyle.tables.io import only_row
from samestyle.tables.modules import shard_lines
from samestyle.tables.night import starting_point
from samestyle.tables.preflight import catalogue_facts, check_catalogue
from samestyle.tables.source import read_catalogue
from samestyle.tables.warehouse import Warehouse


def describe_plan(spark: SparkSession, settings: Settings, store: Store, encoder: dict[str, Any]) -> str:
    """The plan as text: what is read, what would be embedded, which tables are written, how large shards get.

    encoder: encoder.json of the one that the run would use.
    Raises what the run itself would raise on reading: UsageError, InputError, RefusedError from the preflight.
    """
    return "\n".join(plan_lines(spark, settings, store, encoder))


def plan_lines(spark: SparkSession, settings: Settings, store: Store, encoder: dict[str, Any]) -> Iterator[str]:
    source = read_catalogue(spark, settings.catalogue)
    rows = with_duplicates(without_bytes(with_contents(source.rows, settings.embed.max_title_chars)))
    begun = starting_point(store, settings.release.channel)
    warehouse = Warehouse.of(spark, settings)
    parent = load_manifest(store, begun["parent"]) if begun["parent"] else None
    items = warehouse.items()
    baseline = items.read(parent.items_version) if parent else items.no_rows()
    facts = catalogue_facts(rows, baseline)
    check_catalogue(facts, settings.preflight)
    yield "plan:"
    yield f"  catalogue   {source.name} at {source.version}"
    yield f"              {facts.rows:,} rows, {facts.duplicates:,} repeat an item_id"
    yield f"  parent      {begun['parent'] or 'none, this is the first release'}"
    yield f"              serves {facts.served:,} items, {facts.missing:,} of them are gone"
    yield from encoder_lines(encoder, parent)
    attempts = count_attempts(settings, rows, warehouse.embeddings_of(encoder["encoder_id"]))
    yield f"  embed       {attempts.contents:,} contents, in waves of {settings.embed.wave_rows:,}"
    yield f"              {attempts.fetches:,} photos to fetch"
    yield from cost_lines(settings, attempts.contents, encoder["encoder_id"])
    tables = ", ".join(("embeddings", "items", "evaluations", "neighbours", "runs"))
    yield f"  tables      {tables} ({settings.tables.format}) below {warehouse.root}/tables"
    yield from shard_lines(settings, facts.rows, encoder["identity"]["dim"], parent, encoder["encoder_id"])
    yield f"  publish     to {store.uri}, channel {settings.release.channel}"


def encoder_lines(encoder: dict[str, Any], parent: Manifest | None) -> Iterator[str]:
    """Which encoder; and what it means where the parent was made by another."""
    yield f"  encoder     {encoder['encoder_id']} ({encoder['identity']['kind']})"
    if parent and parent.encoder.encoder_id != encoder["encoder_id"]:
        yield f"              the parent was made by {parent.encoder.encoder_id}: every shard is built anew, and"
        yield "              what has no vectors of this encoder yet is embedded (backfill does that ahead)"


@dataclass(frozen=True)
class Attempts:
    """Contents to attempt, and photos to fetch for them; those whose bytes the catalogue holds need no fetch."""

    contents: int
    fetches: int


def count_attempts(settings: Settings, rows: DataFrame, embeddings: DataFrame) -> Attempts:
    rules = RefreshRules(datetime.now(UTC), settings.embed.backoff_hours, settings.catalogue.refetch_days)
    todo = contents_to_attempt(rows, latest_attempts(embeddings), rules)
    fetched = F.col("image_uri").isNotNull() & F.col("image").isNull()
    return Attempts(**only_row(todo.agg(F.count("*").alias("contents"), F.count_if(fetched).alias("fetches"))).asDict())


def cost_lines(settings: Settings, contents: int, encoder_id: str) -> Iterator[str]:
    """Time and cost of embedding, from the rate of an earlier run."""
    if not contents:
        return
    known = best_known_rate(settings, encoder_id)
    if known is None:
        yield "              time unknown: no earlier run below paths.root has embedded with this encoder"
        return
    run_id, rate = known
    seconds, price = contents / rate, settings.embed.price_per_hour
    cost = "" if price is None else f", costs {seconds / 3600 * price:,.2f} at {price:,.2f} an hour"
    yield f"              about {clock(seconds)} at {rate:,.1f} contents/s, as in run {run_id}{cost}"


def best_known_rate(settings: Settings, encoder_id: str) -> tuple[str, float] | None:
    """The run that embedded most with this encoder, and its contents a second: in small ones, starting takes longer."""
    rates = {}
    for run in list_runs(settings):
        spent, start = run.read("throughput"), run.read("start") or {}
        if spent and spent["rows"] and spent["seconds"] and start.get("encoder_id") == encoder_id:
            rates[spent["rows"], run.run_id] = spent["rows"] / spent["seconds"]
    return (max(rates)[1], rates[max(rates)]) if rates else None
