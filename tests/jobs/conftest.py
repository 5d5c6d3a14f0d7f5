"""Jobs as their users start them, on a small catalogue; the encoder is the real one that set-up exported."""

import io
import json
import shutil
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
OFFERS = 120
# Shards of 50 nodes, so that a small catalogue has several.
SMALL = [f"demo.offers={OFFERS}", "embed.wave_rows=60", "embed.task_rows=30", "evaluation.queries=100"] + [
    f"modules.{name}.shard_rows=50" for name in ("search", "homepage", "history")
]
# On so few pairs a calibrated threshold moves from night to night, and then all lists of neighbours are made anew.
SMALL.append("neighbours.same_style_min=0.55")
# One index in place of five, for tests whose subject is not the modules.
SEARCH_ONLY = ("modules.homepage=null", "modules.history=null", "modules.search.views=[fused]")

# What is not needed any more goes at the next opportunity.
AT_ONCE = ("tables.vacuum_hours=0", "tables.retain_days=0", "tables.dead_share=0", "release.grace_hours=0")


@dataclass(frozen=True)
class Ended:
    """How a job ended: its exit code, what it printed, and its run folder.

    runs: those that were there before. Two may have begun in one second, so that their names do not tell the newest.
    """

    code: int
    text: str
    root: Path
    runs: frozenset[Path] = frozenset()

    @property
    def folder(self) -> Path:
        there = set((self.root / "runs").iterdir())
        return max(there - self.runs or there)

    def record(self, name: str) -> dict:
        return json.loads((self.folder / f"{name}.json").read_text())

    @property
    def summary(self) -> dict:
        return self.record("summary")


@pytest.fixture
def run_job(spark):
    return start_job


def start_job(job: str, root: Path, *words: str, small: Sequence[str] = SMALL) -> Ended:
    """Run a job's main in this process, in the suite's session."""
    from samestyle.tables.job import job_main

    module = import_module(f"jobs.{job}")
    printed = io.StringIO()
    argv, runs = [f"paths.root={root}", *small, *words], frozenset((root / "runs").glob("*"))
    with redirect_stdout(printed), redirect_stderr(printed):
        code = job_main(job, module.__doc__, module.run, starts=job in ("nightly", "embed"), argv=argv)
    return Ended(code, printed.getvalue(), root, runs)


@pytest.fixture(scope="session")
def night(spark_session, tmp_path_factory) -> Ended:
    """One finished nightly that many tests look at and none changes."""
    ended = start_job("nightly", tmp_path_factory.mktemp("night"))
    assert ended.code == 0, ended.text
    return ended


@pytest.fixture(scope="session")
def second_night(night, tmp_path_factory) -> Ended:
    """The day after, on a copy of the finished nightly; none of its tests changes it."""
    root = tmp_path_factory.mktemp("second") / "night"
    shutil.copytree(night.root, root)
    ended = start_job("nightly", root, "demo.day=2")
    assert ended.code == 0, ended.text
    return ended


@pytest.fixture
def copied(night, tmp_path) -> Path:
    """paths.root of a copy of the finished night, which a test may go on with."""
    return shutil.copytree(night.root, tmp_path / "copied")


@pytest.fixture(scope="session")
def finished_run(night) -> Path:
    """paths.root of the finished nightly."""
    return night.root
