"""What a run would do, counted but not done: `--dry-run`."""

import json
import math
from collections.abc import Iterator
from datetime import UTC, datetime

from pyspark.sql import DataFrame, SparkSession

from samestyle.encoder.registry import CURRENT
from samestyle.index.nodes import GraphParameters
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

DIM = 256  # of every encoder that this version knows


def describe_plan(spark: SparkSession, settings: Settings, store: Store) -> str:
    """The plan as text: what is read, what would be embedded, which tables are written, how large shards get.

    Raises what the run itself would raise on reading: UsageError, InputError, RefusedError from the preflight.
    """
    return "\n".join(plan_lines(spark, settings, store))


def plan_lines(spark: SparkSession, settings: Settings, store: Store) -> Iterator[str]:
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
    attempts = count_attempts(settings, rows, warehouse, store)
    yield f"  embed       {attempts:,} contents, in waves of {settings.embed.wave_rows:,}"
    tables = ", ".join(("embeddings", "items", "evaluations", "neighbours", "runs"))
    yield f"  tables      {tables} ({settings.tables.format}) below {warehouse.root}/tables"
    yield from shard_lines(settings, facts.rows)
    yield f"  publish     to {store.uri}, channel {settings.release.channel}"


def count_attempts(settings: Settings, rows: DataFrame, warehouse: Warehouse, store: Store) -> int:
    named = store.find(CURRENT)
    encoder_id = json.loads(named)["encoder_id"] if named else ""  # a new store has embedded nothing
    rules = RefreshRules(datetime.now(UTC), settings.embed.backoff_hours, settings.catalogue.refetch_days)
    return contents_to_attempt(rows, latest_attempts(warehouse.embeddings_of(encoder_id)), rules).count()


def shard_lines(settings: Settings, rows: int) -> Iterator[str]:
    """An upper bound: as if every row were a node of every view."""
    for name, module in settings.modules.items():
        graph = GraphParameters(DIM, module.m, module.ef_construction, settings.index.seed)
        nodes = min(rows, module.shard_rows)
        memory = nodes * graph.bytes_per_vector() / 2**20
        shards = math.ceil(rows / module.shard_rows)
        views = ", ".join(module.views)
        yield f"  build_index {name} ({views}): up to {shards} shards a view, {memory:,.0f} MiB of memory a shard"
