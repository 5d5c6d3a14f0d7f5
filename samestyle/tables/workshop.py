"""What the jobs around an encoder share: pairs, training, evaluation and backfill run beside nights, not in them."""

import argparse
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from pyspark.sql import DataFrame, SparkSession

from samestyle.encoder.registry import EncoderReference, register, wanted_encoder
from samestyle.errors import SamestyleError
from samestyle.progress import say
from samestyle.release.lease import Holder, Lease
from samestyle.release.manifest import Manifest
from samestyle.release.publish import load_manifest
from samestyle.release.store import Store, open_store
from samestyle.runs import RunFolder, paths_root
from samestyle.settings import Settings, load_settings
from samestyle.tables.inputs import with_demo_catalogue
from samestyle.tables.job import add_settings_arguments, demo_banner, exported_encoder, report_failure
from samestyle.tables.night import starting_point
from samestyle.tables.session import check_paths, session
from samestyle.tables.source import read_clicks
from samestyle.tables.warehouse import Warehouse


@dataclass
class Workshop:
    """One run of such a job. `run` is its folder, `<paths.root>/workshop/<id>`; `encoder` the one in use today."""

    spark: SparkSession
    settings: Settings
    run: RunFolder
    store: Store
    lease: Lease
    encoder: EncoderReference
    parent: Manifest | None
    arguments: argparse.Namespace

    @property
    def warehouse(self) -> Warehouse:
        return Warehouse.of(self.spark, self.settings)

    def clicks(self) -> DataFrame | None:
        return read_clicks(self.spark, self.settings.clicks)


WorkshopFunction = Callable[[SparkSession, Workshop], None]


def workshop_main(
    job: str,
    doc: str | None,
    run: WorkshopFunction,
    add_arguments: Callable[[argparse.ArgumentParser], object] = lambda parser: None,
    argv: Sequence[str] | None = None,
    continues: bool = False,
) -> int:
    """Run one job from its command line; returns the exit code. Two of the same job never run at once.

    `continues`: the job goes on with its latest run where that did not end well and had the same start.
    """
    parser = argparse.ArgumentParser(prog=f"./spark-submit.sh {job}", description=doc)
    add_settings_arguments(parser)
    add_arguments(parser)
    arguments = parser.parse_intermixed_args(argv)
    try:
        settings = load_settings(arguments.env, arguments.settings, arguments.override)
        paths_root(settings)
    except SamestyleError as error:
        return report_failure(job, error)
    with demo_banner(settings):
        try:
            if not brings_its_own(settings):
                settings = with_demo_catalogue(settings, say)
            with session(job) as spark:
                return run_in_session(spark, job, run, settings, arguments, continues)
        except Exception as error:
            return report_failure(job, error)


def brings_its_own(settings: Settings) -> bool:
    """Whether clicks or ready pairs are given; with those alone, without a catalogue, there is work to do as well."""
    return bool(settings.clicks.path or settings.clicks.table or settings.pairs.path)


def run_in_session(
    spark: SparkSession,
    job: str,
    run: WorkshopFunction,
    settings: Settings,
    arguments: argparse.Namespace,
    continues: bool,
) -> int:
    check_paths(spark, settings)
    store, exported = open_store(settings.store_uri), exported_encoder(settings)
    encoder_id = wanted_encoder(store, exported, chosen=settings.encoder.path is not None)
    start = {"job": job, "encoder_id": encoder_id, "settings_digest": settings.digest()}
    folder = (unfinished_folder(settings, job, start) if continues else None) or new_folder(settings, job)
    with Lease.acquire(store, job, Holder.of_this_process(folder.run_id), settings.lock.lease_s) as lease:
        if not store.exists(f"encoders/{encoder_id}/encoder.json"):
            register(store, exported)
        named = starting_point(store, settings.release.channel)["parent"]
        parent = load_manifest(store, named) if named else None
        encoder = EncoderReference(store, encoder_id)
        folder.begin(start)
        try:
            run(spark, Workshop(spark, settings, folder, store, lease, encoder, parent, arguments))
        except Exception as error:  # one that is interrupted has not ended: it may go on
            code = error.exit_code if isinstance(error, SamestyleError) else 1
            folder.end("failed", code, str(error))
            raise
    folder.end("done", 0, None)
    say(f"summary {folder.path / 'summary.json'}")
    return 0


def new_folder(settings: Settings, job: str) -> RunFolder:
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
    return RunFolder(paths_root(settings) / "workshop" / f"{job}-{stamp}-{secrets.token_hex(3)}")


def unfinished_folder(settings: Settings, job: str, start: dict[str, str]) -> RunFolder | None:
    """The folder of the job's latest run, if that had the same start and has not ended well."""
    folders = sorted((paths_root(settings) / "workshop").glob(f"{job}-*"))
    latest = RunFolder(folders[-1]) if folders else None
    if latest is None or latest.summary.get("outcome") == "done" or latest.read("start") != start:
        return None
    return latest
