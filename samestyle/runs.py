"""A run: its id, its folder, what its stages hand to each other, and the summary that says how it ended.

<paths.root>/runs/<run_id>/start.json            what the run was started with
<paths.root>/runs/<run_id>/<stage>.json          what a stage found out, for the stages after it
<paths.root>/runs/<run_id>/summary.json          outcome and sums; there from the start, rewritten at the end
<paths.root>/runs/<run_id>/report.html
"""

import json
import os
import secrets
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from samestyle.errors import InputError, UsageError
from samestyle.settings import Settings

RUNNING = "running"
# The records of the stages, in order.
STAGES = ("embed", "build_index", "evaluate_index", "neighbours", "gate", "publish", "maintain")


@dataclass(frozen=True)
class RunFolder:
    """A run's folder. Files are replaced whole, so that nobody reads half of one."""

    path: Path

    @property
    def run_id(self) -> str:
        return self.path.name

    def write(self, name: str, record: dict[str, Any]) -> None:
        """Write `<name>.json`. Raises InputError where the folder cannot be written."""
        target = self.path / f"{name}.json"
        partial = target.with_suffix(f".{os.getpid()}.tmp")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            with open(partial, "w", encoding="utf-8") as file:
                file.write(json.dumps(record, indent=2, default=str) + "\n")
                file.flush()
                os.fsync(file.fileno())
            partial.replace(target)
        except OSError as error:
            raise InputError(
                f"cannot write {target}: {error.strerror}; check paths.root and its permissions"
            ) from error

    def read(self, name: str) -> dict[str, Any] | None:
        """What `<name>.json` says; None where it is not there, or a crash has left it unreadable."""
        try:
            return json.loads((self.path / f"{name}.json").read_text(encoding="utf-8"))
        except (FileNotFoundError, json.JSONDecodeError):
            return None

    def required(self, stage: str) -> dict[str, Any]:
        """The record of an earlier stage. Raises UsageError where that has not run."""
        record = self.read(stage)
        if record is None:
            raise UsageError(f"run {self.run_id} has no {stage} yet: run ./spark-submit.sh {stage} first")
        return record

    def forget_from(self, stage: str) -> None:
        """Drop what this stage and those after it found out before: it was found out about something else."""
        for name in STAGES[STAGES.index(stage) :]:
            (self.path / f"{name}.json").unlink(missing_ok=True)

    @property
    def summary(self) -> dict[str, Any]:
        return self.read("summary") or {}

    def begin(self, start: dict[str, Any]) -> None:
        """From here on the run counts as begun; should it die, the same start goes on with it."""
        self.write("start", start)
        # A run that goes on keeps its start: its release's manifest must stay the same, byte by byte.
        started_at = self.summary.get("started_at") or now()
        self.write("summary", {"run_id": self.run_id, "outcome": RUNNING, "started_at": started_at})

    def end(self, outcome: str, exit_code: int, error: str | None, facts: dict[str, Any] | None = None) -> None:
        """Write how it ended: some deploy modes lose a job's exit code, but not this file."""
        ended = {
            "run_id": self.run_id,
            "outcome": outcome,
            "exit_code": exit_code,
            "error": error,
            "ended_at": now(),
        }
        self.write("summary", {**self.summary, **ended, **(facts or {})})


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def paths_root(settings: Settings) -> Path:
    """paths.root, made if need be. Raises UsageError where it is not set or cannot be written."""
    if settings.paths.root is None:
        raise UsageError("paths.root is not set: name the folder that a run may write to, paths.root=/path/to/folder")
    if "://" in settings.paths.root:
        raise UsageError(
            f"paths.root={settings.paths.root} is a URI: name a folder, as in paths.root=/mnt/shared/samestyle"
        )
    root = Path(settings.paths.root).absolute()
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=root):
            return root
    except OSError as error:
        raise UsageError(
            f"cannot write to paths.root={root}: {error.strerror}; choose another folder or change its permissions"
        ) from error


def runs_folder(settings: Settings) -> Path:
    return paths_root(settings) / "runs"


def list_runs(settings: Settings) -> list[RunFolder]:
    """All runs, oldest first: their ids begin with the time."""
    folder = runs_folder(settings)
    return [RunFolder(path) for path in sorted(folder.iterdir()) if path.is_dir()] if folder.is_dir() else []


def find_run(settings: Settings, run_id: str | None) -> RunFolder:
    """The named run, or the latest that has embedded something. Raises UsageError where there is none."""
    runs = list_runs(settings)
    if run_id is not None:
        named = [run for run in runs if run.run_id == run_id]
        if not named:
            raise UsageError(f"no run {run_id} below {runs_folder(settings)}: `samestyle runs list` shows them")
        return named[0]
    embedded = [run for run in runs if run.read("embed") is not None]
    if not embedded:
        raise UsageError(f"no run below {runs_folder(settings)} has embedded yet: run ./spark-submit.sh embed first")
    return embedded[-1]


def new_run(settings: Settings) -> RunFolder:
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
    return RunFolder(runs_folder(settings) / f"{stamp}-{secrets.token_hex(3)}")


def dead_or_new_run(settings: Settings, start: dict[str, Any]) -> RunFolder:
    """The newest run, if it never ended and had the same start (source, encoder, settings); else a new one.

    Whether it is dead or alive is for the lock to say.
    """
    runs = [run for run in list_runs(settings) if run.summary.get("outcome") != "conflict"]
    if runs and runs[-1].summary.get("outcome") == RUNNING and runs[-1].read("start") == start:
        return runs[-1]
    return new_run(settings)
