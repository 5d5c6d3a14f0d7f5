"""What the stages of one night share: where they read, where they write, who may write, and what serves now."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from pyspark.sql import DataFrame, SparkSession

from samestyle.code import code_version
from samestyle.encoder.registry import EncoderReference
from samestyle.progress import say
from samestyle.release.lease import Lease
from samestyle.release.manifest import Manifest
from samestyle.release.publish import read_pointer
from samestyle.release.store import Store
from samestyle.report.summary import closing_table, published_line, summarise
from samestyle.runs import RunFolder
from samestyle.settings import Settings
from samestyle.tables.source import read_clicks
from samestyle.tables.warehouse import Warehouse

LEDGER_COUNTS = ("read", "fresh", "reused", "stale", "degraded", "rejected", "deleted")


@dataclass
class Night:
    """One run. `parent` is the release that it starts from, `channel_named` what the target channel named then."""

    spark: SparkSession
    settings: Settings
    run: RunFolder
    store: Store
    lease: Lease
    encoder: EncoderReference
    parent: Manifest | None
    channel_named: str | None
    force: str | None = None
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    ledger: list[tuple[Any, ...]] = field(default_factory=list)

    @property
    def warehouse(self) -> Warehouse:
        return Warehouse.of(self.spark, self.settings)

    @property
    def release_id(self) -> str:
        """A run makes at most one release, under its own id."""
        return self.run.run_id

    def baseline(self) -> DataFrame:
        """The items that the parent release was made from; no rows where there is no parent."""
        items = self.warehouse.items()
        return items.read(self.parent.items_version) if self.parent else items.no_rows()

    def same_encoder(self) -> bool:
        """Whether the parent release was made by this run's encoder."""
        return self.parent is None or self.parent.encoder.encoder_id == self.encoder.encoder_id

    def items(self) -> DataFrame:
        """The day's items, at the version that this run's embed stage wrote."""
        return self.warehouse.items().read(self.run.required("embed")["items_version"])

    def embeddings(self) -> DataFrame:
        return self.warehouse.embeddings_of(self.encoder.encoder_id)

    def clicks(self) -> DataFrame | None:
        return read_clicks(self.spark, self.settings.clicks)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Checks the lock, takes the time, and keeps a row for the ledger; of a failed stage, summary.json tells."""
        self.lease.check()
        self.run.forget_from(name)
        started = datetime.now(UTC)
        yield
        timings = self.run.read("timings") or {}
        self.run.write("timings", timings | {name: (datetime.now(UTC) - started).total_seconds()})
        self.ledger.append(self.ledger_row(name, started))

    def finish(self, outcome: str, exit_code: int, error: str | None, published: bool) -> None:
        """Leave summary.json, also of a run that failed, and tell the person who watches."""
        self.run.end(outcome, exit_code, error, summarise(self.run))
        say(f"summary {self.run.path / 'summary.json'}")
        print(closing_table(self.run.summary), flush=True)
        if published:
            say(published_line(self.run.summary))

    def ledger_row(self, stage: str, started: datetime) -> tuple[Any, ...]:
        embed = self.run.read("embed") or {}
        counts = [embed.get("counts", {}).get(name) for name in LEDGER_COUNTS]
        row = [self.run.run_id, stage, started, datetime.now(UTC), *counts, embed.get("contents_embedded")]
        row += [self.settings.digest(), code_version(), embed.get("source_version"), self.encoder.encoder_id]
        return (*row, self.release_id if stage == "publish" else None, "done")

    def append_ledger(self) -> None:
        """The rows of all stages that this job ran, in one commit."""
        self.lease.check()
        table = self.warehouse.runs
        table.append(self.spark.createDataFrame(self.ledger, table.schema))


def starting_point(store: Store, channel: str) -> dict[str, str | None]:
    """Where a run starts: what the target channel names, and the parent; an empty candidate starts from current."""
    target, current = read_pointer(store, channel), read_pointer(store, "current")
    named = target.release_id if target else None
    return {"channel_named": named, "parent": named or (current.release_id if current else None)}
