"""Keep the tables small: join small files, remove vectors that nothing uses and files that nothing reads.

What a kept release was made from stays: its version of `items`, and every vector that serves an item of it.
"""

import math
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import reduce
from pathlib import Path
from typing import Any

from delta.tables import DeltaTable
from pyspark.sql import DataFrame, Row, SparkSession
from pyspark.sql import functions as F

from samestyle.encoder.registry import current_encoder
from samestyle.progress import say
from samestyle.release.publish import list_releases, load_manifest
from samestyle.tables.changes import latest_attempts
from samestyle.tables.components import Scratch
from samestyle.tables.io import Table, only_row
from samestyle.tables.night import Night

# Those that grow by appends. `items` is written whole; the rows of `neighbours` leave as they came, release by release.
APPENDED = ("embeddings", "evaluations", "runs")
SMALL_FILES = 64  # fewer than these are not worth a commit
ROW = ["encoder_id", "content_key", "embedded_at"]  # what names a row of embeddings
DELTA = "spark.databricks.delta."


@dataclass(frozen=True)
class Pin:
    """What a kept release, or the run itself, goes on reading."""

    release_id: str
    items_version: str
    encoder_id: str


def maintain(night: Night) -> dict[str, Any]:
    """Do what the settings of `tables` ask for, and say what was done: rows and files by table."""
    night.lease.check()
    tables, settings = all_tables(night), night.settings.tables
    remove_scratch(night)
    done: dict[str, Any] = {"removed_rows": {}, "joined_files": {}, "removed_files": {}}
    if settings.format == "parquet":
        done["removed_files"] = remove_folders(night, tables)
    else:
        if settings.retain_days is not None:
            done["removed_rows"] = retire(night, datetime.now(UTC) - timedelta(days=settings.retain_days))
        facts = {name: table_facts(night.spark, table) for name, table in tables.items()}
        if settings.optimize:
            done["joined_files"] = join_files(night, {name: facts[name] for name in APPENDED if name in facts})
        if settings.vacuum_hours is not None:
            done["removed_files"] = vacuum(night, facts, settings.vacuum_hours)
    for what, counts in done.items():
        for name, count in counts.items():
            say(f"tables: {what.replace('_', ' ')} of {name}: {count:,}")
    return done


def all_tables(night: Night) -> dict[str, Table]:
    """Those that exist."""
    warehouse = night.warehouse
    tables = {name: getattr(warehouse, name) for name in (*APPENDED, "neighbours", "pairs")}
    return {name: table for name, table in {**tables, "items": warehouse.items()}.items() if table.exists}


def table_facts(spark: SparkSession, table: Table) -> Row:
    """location, numFiles, sizeInBytes, created_s (seconds since 1970) of a Delta table."""
    detail = DeltaTable.forPath(spark, table.path).detail()
    return only_row(detail.withColumn("created_s", F.col("createdAt").cast("double")))


def pins(night: Night) -> list[Pin]:
    kept = [load_manifest(night.store, release_id) for release_id in list_releases(night.store)]
    own = Pin(night.release_id, night.run.required("embed")["items_version"], night.encoder.encoder_id)
    return [own, *(Pin(one.release_id, one.items_version, one.encoder.encoder_id) for one in kept)]


def remove_scratch(night: Night) -> None:
    """What killed runs have left; they will not go on, as this one has the lock and is not them."""
    for folder in night.run.path.parent.glob("*/scratch"):
        shutil.rmtree(folder, ignore_errors=True)


def retire(night: Night, before: datetime) -> dict[str, int]:
    """Remove rows older than `before` that no kept release, and no night to come, has a use for."""
    kept = pins(night)
    removed = {"neighbours": retire_neighbours(night, kept, before)}
    with Scratch(night.spark, night.run.path / "scratch") as scratch:
        doomed = scratch.keep(unused_rows(night, kept, before))
        count, total = doomed.count(), night.warehouse.embeddings.read().count()
        if count and count >= night.settings.tables.dead_share * total:
            night.lease.check()
            same = " and ".join(f"held.{name} = doomed.{name}" for name in ROW)
            held = DeltaTable.forPath(night.spark, night.warehouse.embeddings.path).alias("held")
            held.merge(doomed.alias("doomed"), same).whenMatchedDelete().execute()
            removed["embeddings"] = count
    return {name: rows for name, rows in removed.items() if rows}


def unused_rows(night: Night, kept: list[Pin], before: datetime) -> DataFrame:
    """The rows of embeddings (ROW) older than `before` that serve no item of a kept release.

    Of the contents that these releases want, the latest attempts stay as well: without them they would be tried again.
    """
    embeddings, items = night.warehouse.embeddings.read(), night.warehouse.items()
    versions = [(pin, items.read(pin.items_version)) for pin in distinct_versions(kept)]
    wanted = union([rows.select(F.col("wanted_key").alias("content_key")) for _, rows in versions]).distinct()
    needed = [
        rows.select(F.lit(pin.encoder_id).alias("encoder_id"), "content_key", F.col("served_at").alias("embedded_at"))
        for pin, rows in versions
    ]
    for encoder_id in sorted({*(pin.encoder_id for pin in kept), current_encoder(night.store) or ""}):
        latest = latest_attempts(embeddings.where(F.col("encoder_id") == encoder_id)).join(wanted, "content_key")
        times = F.explode(F.array("newest_embedded_at", "done_embedded_at")).alias("embedded_at")
        needed.append(latest.select(F.lit(encoder_id).alias("encoder_id"), "content_key", times))
    old = embeddings.where(F.col("embedded_at") < F.lit(before)).select(*ROW)
    return old.join(union(needed), ROW, "left_anti").distinct()


def distinct_versions(kept: list[Pin]) -> list[Pin]:
    return list({pin.items_version: pin for pin in kept}.values())


def union(frames: list[DataFrame]) -> DataFrame:
    return reduce(DataFrame.unionByName, frames)


def retire_neighbours(night: Night, kept: list[Pin], before: datetime) -> int:
    """Remove the lists of releases that are gone, or never were published. Ids of releases begin with their time."""
    table = night.warehouse.neighbours
    if not table.exists:
        return 0
    ids = [pin.release_id for pin in kept]
    gone = ~F.col("release_id").isin(ids) & (F.col("release_id") < before.strftime("%Y%m%dT%H%M%S"))
    count = table.read().where(gone).count()
    if count:
        DeltaTable.forPath(night.spark, table.path).delete(gone)
    return count


def join_files(night: Night, facts: dict[str, Row]) -> dict[str, int]:
    """OPTIMIZE those tables that have many more files than their size asks for; files joined, by table."""
    size = night.settings.tables.file_mib * 2**20
    joined = {}
    with spark_settings(night.spark, {f"{DELTA}optimize.{end}FileSize": str(size) for end in ("min", "max")}):
        for name, fact in facts.items():
            if fact["numFiles"] > SMALL_FILES + 2 * fact["sizeInBytes"] / size:
                night.lease.check()
                done = only_row(DeltaTable.forPath(night.spark, fact["location"]).optimize().executeCompaction())
                joined[name] = done["metrics"]["numFilesRemoved"]
    return joined


def vacuum(night: Night, facts: dict[str, Row], hours: float) -> dict[str, int]:
    """VACUUM every table that is old enough to have something to remove; files removed, by table."""
    removed = {}
    settings = {
        # A table's own retention keeps the versions of `items` readable; how many of them are needed is known here.
        f"{DELTA}vacuum.retentionWindowIgnore.enabled": "false",
        f"{DELTA}retentionDurationCheck.enabled": "false",
        # Ten thousand by default, each a task, however small the table is: a minute for nothing.
        "spark.sql.sources.parallelPartitionDiscovery.parallelism": "32",
    }
    with spark_settings(night.spark, settings):
        for name, fact in facts.items():
            if time.time() - fact["created_s"] >= 3600 * hours:
                night.lease.check()
                removed[name] = vacuum_table(night, name, fact["location"], hours)
    return {name: count for name, count in removed.items() if count}


def vacuum_table(night: Night, name: str, path: str, hours: float) -> int:
    if name == "items":
        return 0  # kept releases name its older versions, and Delta knows nothing of them
    before = len(data_files(path))
    DeltaTable.forPath(night.spark, path).vacuum(math.ceil(hours))  # Delta rounds to whole hours, down as well
    return before - len(data_files(path))


def data_files(path: str) -> list[Path]:
    return list(Path(path.removeprefix("file:")).rglob("*.parquet"))


@contextmanager
def spark_settings(spark: SparkSession, wanted: dict[str, str]) -> Iterator[None]:
    before = {name: spark.conf.get(name, None) for name in wanted}
    for name, value in wanted.items():
        spark.conf.set(name, value)
    try:
        yield
    finally:
        for name, former in before.items():
            spark.conf.unset(name) if former is None else spark.conf.set(name, former)


def remove_folders(night: Night, tables: dict[str, Table]) -> dict[str, int]:
    """Parquet: what a killed write has left, and versions that neither a kept release nor a reader names any more."""
    hours = night.settings.tables.vacuum_hours
    if hours is None:
        return {}
    before, kept, removed = time.time() - 3600 * hours, {f"version-{pin.items_version}" for pin in pins(night)}, {}
    for name, table in tables.items():
        folders = [folder for folder in Path(table.path).iterdir() if folder.is_dir()]
        versions = sorted(folder for folder in folders if folder.name.startswith("version-"))
        living = {folder for folder in versions if folder.name in kept} if name == "items" else {*versions[-1:]}
        dead = [f for f in folders if not (f / "_SUCCESS").exists() or (f in versions and f not in living)]
        old = [folder for folder in dead if folder.stat().st_mtime < before]
        for folder in old:
            night.lease.check()
            shutil.rmtree(folder)
        removed[name] = len(old)
    return {name: count for name, count in removed.items() if count}
