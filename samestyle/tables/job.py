"""What every job does around its own sentence: arguments, session, lock, run, outcome, exit code."""

import argparse
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from pyspark.sql import SparkSession

from samestyle.encoder.registry import (
    EncoderReference,
    adopt_encoder,
    current_encoder,
    local_copy,
    wanted_encoder,
    wanted_manifest,
)
from samestyle.encoder.sources import default_kind
from samestyle.errors import ConflictError, RefusedError, SamestyleError, UsageError
from samestyle.notify import notify
from samestyle.progress import say
from samestyle.release.lease import NIGHTLY, Holder, Lease
from samestyle.release.publish import load_manifest
from samestyle.release.store import Store, open_store
from samestyle.runs import RUNNING, RunFolder, dead_or_new_run, find_run, new_run, paths_root
from samestyle.settings import Section, Settings, load_settings, to_yaml
from samestyle.tables.inputs import with_demo_catalogue
from samestyle.tables.night import Night, starting_point
from samestyle.tables.plan import describe_plan
from samestyle.tables.reporting import write_report
from samestyle.tables.session import check_paths, session
from samestyle.tables.source import pin_version

JobFunction = Callable[[SparkSession, Night], None]


def job_main(
    stage: str, doc: str | None, run: JobFunction, starts: bool = False, argv: Sequence[str] | None = None
) -> int:
    """Run one job from its command line; returns the exit code. `starts`: the job begins a run of its own."""
    arguments = parse_arguments(stage, doc or "", argv)
    try:
        settings = load_settings(arguments.env, arguments.settings, arguments.override)
        paths_root(settings)
    except SamestyleError as error:
        return report_failure(stage, error)
    with demo_banner(settings):
        try:
            return run_stage(stage, run, starts, settings, arguments)
        except Exception as error:
            return report_failure(stage, error)


def parse_arguments(stage: str, doc: str, argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=f"./spark-submit.sh {stage}",
        description=doc,
        epilog="Exit codes: 0 done, 1 failed, 2 wrong settings or usage, 3 preflight or gate refused, 4 another run "
        "holds the lock, 5 input could not be read, 6 the sums do not add up. docs/settings.md explains every setting.",
    )
    add_settings_arguments(parser)
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="print the settings and the plan; draws the demo shop, writes nothing else",
    )
    parser.add_argument(
        "--sample",
        metavar="SHARE",
        type=float,
        help="a trial on a share of the items, such as 0.01, in a folder of its own",
    )
    parser.add_argument("--run", metavar="RUN_ID", help="the run that a stage alone goes on with; default: the latest")
    parser.add_argument("--force", metavar="REASON", help="publish although the gate refuses; the reason is recorded")
    return parser.parse_intermixed_args(argv)  # a setting may stand behind an option as well


def add_settings_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "override", nargs="*", metavar="a.b=value", help="settings that override conf/, e.g. demo.day=2"
    )
    parser.add_argument("--env", help="demo (default, or $SAMESTYLE_ENV), dev or prod: which conf/<env>.yaml is read")
    parser.add_argument("--settings", metavar="FILE", help="a further YAML file of settings")


@contextmanager
def demo_banner(settings: Settings) -> Iterator[None]:
    if settings.env == "demo":
        say(f"DEMO environment, everything below {settings.paths.root}; --env dev or prod for your own catalogue")
    yield
    if settings.env == "demo":
        say("DEMO ends here; conf/base.yaml lists every setting, README.md says how to use your own catalogue")


def run_stage(stage: str, run: JobFunction, starts: bool, settings: Settings, arguments: argparse.Namespace) -> int:
    settings = with_demo_catalogue(settings, say)
    if arguments.sample is not None:
        settings = with_sample(settings, arguments.sample)
        say(f"TRIAL on {arguments.sample:g} of the items, everything below {settings.paths.root}; it is no baseline")
    with session(stage) as spark:
        return run_in_session(spark, stage, run, starts, settings, arguments)


def run_in_session(
    spark: SparkSession,
    stage: str,
    run: JobFunction,
    starts: bool,
    settings: Settings,
    arguments: argparse.Namespace,
) -> int:
    check_paths(spark, settings)
    store = open_store(settings.store_uri)
    exported, chosen = exported_encoder(settings), settings.encoder.path is not None
    if arguments.dry_run:
        print(to_yaml(settings))
        print(describe_plan(spark, settings, store, wanted_manifest(store, exported, chosen)))
        return 0
    start = {
        "source_version": pin_version(spark, settings.catalogue),
        "encoder_id": wanted_encoder(store, exported, chosen),
        "settings_digest": settings.digest(),
        **starting_point(store, settings.release.channel),
    }
    folder = dead_or_new_run(settings, start) if starts else find_run(settings, arguments.run)
    with held_lease(store, settings, folder) as lease:
        if starts:
            begin_run(folder, start, store, settings)
            adopt_encoder(store, exported, str(start["encoder_id"]), chosen)
        begun = folder.required("start")
        encoder = EncoderReference(store, begun["encoder_id"])
        parent = load_manifest(store, begun["parent"]) if begun["parent"] else None
        night = Night(spark, settings, folder, store, lease, encoder, parent, begun["channel_named"], arguments.force)
        return guarded(stage, run, night)


def begin_run(folder: RunFolder, start: dict[str, Any], store: Store, settings: Settings) -> None:
    """Begin, or go on with, a run. What was decided before the lock was ours must still hold. Raises ConflictError."""
    now = start | starting_point(store, settings.release.channel)
    if now != start or folder.summary.get("outcome", RUNNING) != RUNNING:
        raise ConflictError(f"another run ended while run {folder.run_id} was starting: run again")
    folder.begin(start)


@contextmanager
def held_lease(store: Store, settings: Settings, folder: RunFolder) -> Iterator[Lease]:
    try:
        lease = Lease.acquire(store, NIGHTLY, Holder.of_this_process(folder.run_id), settings.lock.lease_s)
    except ConflictError as error:
        conflict = new_run(settings)
        conflict.end("conflict", ConflictError.exit_code, str(error))
        notify(settings.notify.command, conflict.path / "summary.json", settings.notify.timeout_s)
        raise
    if lease.taken_over:
        say(f"took over the lock: {lease.taken_over}")
    with lease:
        yield lease


def guarded(stage: str, run: JobFunction, night: Night) -> int:
    """Run it; whatever happens, leave the outcome and the report."""
    try:
        with nullcontext() if stage == "nightly" else night.stage(stage):  # the nightly opens each stage itself
            run(night.spark, night)
        night.append_ledger()
        night.finish("done", 0, None, published=stage in ("nightly", "publish"))
    except Exception as error:
        known = cause_of(error)
        code = known.exit_code if known else 1
        night.finish("refused" if code == RefusedError.exit_code else "failed", code, str(known or error), False)
        raise
    finally:
        report = write_report(night)
        if report:
            say(f"report {report}")
        notify(night.settings.notify.command, night.run.path / "summary.json", night.settings.notify.timeout_s)
    return 0


def cause_of(error: BaseException) -> SamestyleError | None:
    """The error of ours that this is, that it was raised from, or that a worker raised."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, SamestyleError):
            return seen
        seen = seen.__cause__ or seen.__context__
    # A worker's error reaches the driver as text, the last line of its traceback.
    raised = re.findall(r"^\s*samestyle\.[\w.]*?(\w+Error): (.*)$", str(error), flags=re.MULTILINE)
    return SamestyleError(f"on a worker: {raised[-1][1]}") if raised else None


def report_failure(stage: str, error: Exception) -> int:
    """Say what happened on standard error, with a trace only where the error is none of ours; returns the exit code."""
    known = cause_of(error)
    if known is not None:
        say(str(known), sys.stderr)
        return known.exit_code
    traceback.print_exception(error)
    say(f"{stage} failed: {type(error).__name__}: {(str(error).splitlines() or [''])[0]}", sys.stderr)
    return SamestyleError.exit_code


def with_sample(settings: Settings, share: float) -> Settings:
    """The same on a share of the items, with tables, store and lock of its own, and the encoder that is in use.

    Raises UsageError for what is no share.
    """
    if not 0 < share < 1:
        raise UsageError(f"--sample {share:g} is no share: name one above 0 and below 1, such as 0.01")
    store = open_store(settings.store_uri)
    current = None if settings.encoder.path else current_encoder(store)
    path = str(local_copy(store, current)) if current else settings.encoder.path
    changed: dict[str, tuple[Section, dict[str, Any]]] = {
        "paths": (settings.paths, {"root": str(paths_root(settings) / "samples" / f"{share:g}")}),
        "release": (settings.release, {"store": None}),
        "catalogue": (settings.catalogue, {"sample": share}),
        "encoder": (settings.encoder, {"path": path}),
    }
    return settings.model_copy(update={name: part.model_copy(update=new) for name, (part, new) in changed.items()})


def exported_encoder(settings: Settings) -> Path:
    """The folder that set-up exported the default encoder to, or the one that the settings name."""
    if settings.encoder.path:
        return Path(settings.encoder.path)
    return Path(os.environ.get("SAMESTYLE_HOME", ".")) / ".cache" / "encoders" / default_kind()
