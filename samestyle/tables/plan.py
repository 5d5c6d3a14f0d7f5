"""What a run would do, counted but not done: `--dry-run`."""

import math
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from pyspark.sql import DataFrame, SparkSession

from samestyle.index.nodes import GraphParameters
from samestyle.release.manifest import Manifest
from samestyle.release.publish import load_manifest
from samestyle.release.store import Store
from samestyle.settings import Settings
from samestyle.tables.changes import (
    RefreshRules,
    contents_to_attempt,
    latest_attempts,
    with_contents,
    with_duplicates,
)
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
    rows = with_duplicates(with_contents(source.rows, settings.embed.max_title_chars))
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
    yield f"  embed       {attempts:,} contents, in waves of {settings.embed.wave_rows:,}"
    tables = ", ".join(("embeddings", "items", "evaluations", "neighbours", "runs"))
    yield f"  tables      {tables} ({settings.tables.format}) below {warehouse.root}/tables"
    yield from shard_lines(settings, facts.rows, encoder["identity"]["dim"])
    yield f"  publish     to {store.uri}, channel {settings.release.channel}"


def encoder_lines(encoder: dict[str, Any], parent: Manifest | None) -> Iterator[str]:
    """Which encoder; and what it means where the parent was made by another."""
    yield f"  encoder     {encoder['encoder_id']} ({encoder['identity']['kind']})"
    if parent and parent.encoder.encoder_id != encoder["encoder_id"]:
        yield f"              the parent was made by {parent.encoder.encoder_id}: every shard is built anew, and"
        yield "              what has no vectors of this encoder yet is embedded (backfill does that ahead)"


def count_attempts(settings: Settings, rows: DataFrame, embeddings: DataFrame) -> int:
    rules = RefreshRules(datetime.now(UTC), settings.embed.backoff_hours, settings.catalogue.refetch_days)
    return contents_to_attempt(rows, latest_attempts(embeddings), rules).count()


def shard_lines(settings: Settings, rows: int, dim: int) -> Iterator[str]:
    """An upper bound: as if every row were a node of every view."""
    for name, module in settings.modules.items():
        graph = GraphParameters(dim, module.m, module.ef_construction, settings.index.seed)
        nodes = min(rows, module.shard_rows)
        memory = nodes * graph.bytes_per_vector() / 2**20
        shards = math.ceil(rows / module.shard_rows)
        views = ", ".join(module.views)
        yield f"  build_index {name} ({views}): up to {shards} shards a view, {memory:,.0f} MiB of memory a shard"
