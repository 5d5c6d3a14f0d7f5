"""Embedding is killed with signal 9, in the middle of whatever it does, and started again: real processes.

What the encoder was asked for is written down by the workers themselves (counted_embed.py), so that a content whose
wave was lost counts as well. The moments are drawn over the whole run, and some lie inside of a commit.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from checkout import ROOT
from PIL import Image

from samestyle.encoder.sources import default_kind

ROWS, WAVE_ROWS = 48, 6
JARS = sorted((ROOT / ".cache" / "jars").glob("*.jar"))
ENCODER = ROOT / ".cache" / "encoders" / default_kind()
STATES = ("fresh", "reused", "stale", "degraded", "rejected")

pytestmark = pytest.mark.skipif(
    not JARS or not (ENCODER / "encoder.json").exists(), reason="needs Delta's jars and the encoder: make setup"
)


@dataclass(frozen=True)
class Kill:
    """`what` is killed once that many waves are committed and `phase` of a further one has passed.

    what: worker, a Python worker alone; driver, the Python process that holds the lock; machine, all processes at once.
    """

    what: str
    waves: int
    phase: float = 0.0
    in_commit: bool = False


@dataclass
class Shop:
    """A catalogue of distinct titles, half of them with a photo, and the folder that is embedded into."""

    root: Path
    format: str
    rows: int = ROWS
    killed: list[tuple[Kill, Counter[str], int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.root.mkdir(parents=True)
        Image.effect_noise((96, 96), 80).convert("RGB").save(self.root / "photo.jpg")
        rows = [
            {"item_id": f"i{n}", "title": f"mug {n}", "image_uri": "photo.jpg" if n % 2 else None, "image_version": "1"}
            for n in range(self.rows)
        ]
        pq.write_table(pa.Table.from_pylist(rows), self.root / "catalogue.parquet")
        (self.root / "counted").touch()

    @property
    def table(self) -> Path:
        return self.root / "out" / "tables" / "embeddings"

    def calls(self) -> list[str]:
        """Titles that the encoder was asked for, in order, over all runs."""
        return (self.root / "counted").read_text().splitlines()

    def start(self) -> subprocess.Popen[bytes]:
        settings = [f"catalogue.path={self.root / 'catalogue.parquet'}", f"paths.root={self.root / 'out'}"]
        settings += [f"tables.format={self.format}", f"encoder.path={ENCODER}", "lock.lease_s=86400"]
        settings += [f"embed.wave_rows={WAVE_ROWS}", f"embed.task_rows={WAVE_ROWS}"]
        environment = os.environ | {
            "COUNTED": str(self.root / "counted"),
            "SAMESTYLE_HOME": str(ROOT),
            "PYTHONPATH": f"{ROOT}{os.pathsep}{Path(__file__).parent}",
            "PYSPARK_PYTHON": sys.executable,
            "PYSPARK_DRIVER_PYTHON": sys.executable,
        }
        command = [sys.executable, str(Path(__file__).with_name("counted_embed.py")), *settings]
        with open(self.root / "log", "w") as log:
            return subprocess.Popen(
                command, env=environment, cwd=self.root, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )

    def log(self) -> str:
        """What the latest process has printed."""
        return (self.root / "log").read_text()

    def commits(self) -> list[Path]:
        if self.format == "delta":
            return sorted((self.table / "_delta_log").glob("*.json"))
        return sorted(self.table.glob("part-*/_SUCCESS"))

    def files(self) -> list[Path]:
        """Data files that are committed."""
        if self.format == "parquet":
            return [file for commit in self.commits() for file in commit.parent.glob("*.parquet")]
        actions = [json.loads(line) for commit in self.commits() for line in commit.read_text().splitlines()]
        return [self.table / action["add"]["path"] for action in actions if "add" in action]

    def contents(self) -> Counter[str]:
        """content_key -> its committed rows."""
        return Counter(
            key for file in self.files() for key in pq.read_table(file, columns=["content_key"])[0].to_pylist()
        )

    def uncommitted(self) -> int:
        """Data files that are written, or are being written, and not committed: those of dead runs stay for ever."""
        return len(list(self.table.rglob("part-*.parquet"))) - len(self.files())


def wait_for(condition: Callable[[], object], process: subprocess.Popen[bytes], shop: Shop) -> None:
    while not condition():
        assert process.poll() is None, f"it ended before it could be killed:\n{shop.log()}"
        time.sleep(0.005)


def end(process: subprocess.Popen[bytes]) -> None:
    """Leave nothing of it: a driver's JVM and workers outlive it by a moment."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def python_workers(session: int) -> list[int]:
    """Processes that pyspark's daemon has forked, of one session."""
    table = subprocess.run(["ps", "-eo", "pid=,ppid=,sess=,args="], capture_output=True, text=True, check=True).stdout
    rows = [line.split(None, 3) for line in table.splitlines()]
    daemons = {pid for pid, _, sess, args in rows if sess == str(session) and "pyspark.daemon" in args}
    return [int(pid) for pid, parent, _, _ in rows if pid in daemons and parent in daemons]


def run_until(shop: Shop, kill: Kill) -> None:
    """Start, wait for the moment, kill; keep what was committed and asked for by then. A worker's end is survived."""
    before, process = shop.uncommitted(), shop.start()
    try:
        wait_for(lambda: len(shop.commits()) >= kill.waves, process, shop)
        time.sleep(kill.phase)
        if kill.in_commit:
            wait_for(lambda: shop.uncommitted() > before, process, shop)
        if kill.what == "worker":
            wait_for(lambda: python_workers(process.pid), process, shop)
            os.kill(random.choice(python_workers(process.pid)), signal.SIGKILL)
            shop.killed.append((kill, shop.contents(), len(shop.calls())))
            assert process.wait() == 0, shop.log()
            return
        os.kill(process.pid, signal.SIGKILL) if kill.what == "driver" else os.killpg(process.pid, signal.SIGKILL)
    finally:
        end(process)
    shop.killed.append((kill, shop.contents(), len(shop.calls())))


def finish(shop: Shop) -> dict:
    """The record of the run that embedded the last content."""
    if shop.killed[-1][0].what != "worker":
        assert shop.start().wait() == 0, shop.log()
    summaries = sorted((shop.root / "out" / "runs").glob("*/embed.json"))
    return json.loads(summaries[-1].read_text())


def check(shop: Shop, record: dict) -> None:
    """Nothing embedded twice but the wave in flight, no row lost, the sums add up."""
    contents, calls = shop.contents(), shop.calls()
    assert len(contents) == shop.rows
    assert set(contents.values()) == {1}
    assert set(calls) == {f"mug {n}" for n in range(shop.rows)}
    again = {title: count - 1 for title, count in Counter(calls).items() if count > 1}
    assert max(again.values(), default=0) <= len(shop.killed)
    # A wave has WAVE_ROWS contents by their hash, so some have twice as many.
    assert sum(again.values()) <= len(shop.killed) * 3 * WAVE_ROWS
    committed_titles = titles_by_key(shop)
    for _, committed, called in shop.killed:
        later = set(calls[called:])
        assert not later & {committed_titles[key] for key in committed}
    counts = record["counts"]
    assert counts["read"] == shop.rows == sum(counts[state] for state in STATES)
    assert counts["fresh"] + counts["reused"] == shop.rows


def titles_by_key(shop: Shop) -> dict[str, str]:
    """content_key -> title, from the items of the last run."""
    folder = shop.root / "out" / "tables" / "items"
    if shop.format == "parquet":
        files = sorted(max(folder.glob("version-*/_SUCCESS")).parent.glob("*.parquet"))
    else:
        log = sorted((folder / "_delta_log").glob("*.json"))[-1]
        actions = [json.loads(line) for line in log.read_text().splitlines()]
        files = [folder / action["add"]["path"] for action in actions if "add" in action]
    rows = [row for file in files for row in pq.read_table(file, columns=["wanted_key", "title"]).to_pylist()]
    return {row["wanted_key"]: row["title"] for row in rows}


@pytest.mark.parametrize(
    ("table_format", "rows", "kills"),
    [
        # Each time a worker: a process less to start. test_lock.py kills all processes of a night.
        pytest.param("parquet", 24, [Kill("worker", 1)], id="worker"),
        pytest.param(
            "parquet", 24, [Kill("driver", 1, in_commit=True), Kill("worker", 3)], id="parquet", marks=pytest.mark.soak
        ),
        pytest.param(
            "delta", ROWS, [Kill("machine", 3, in_commit=True), Kill("worker", 6)], id="delta", marks=pytest.mark.soak
        ),
    ],
)
def test_what_is_killed_goes_on_where_it_was(tmp_path, table_format, rows, kills):
    shop = Shop(tmp_path / "shop", table_format, rows)
    for kill in kills:
        run_until(shop, kill)
    check(shop, finish(shop))


@pytest.mark.soak
@pytest.mark.parametrize("table_format", ["delta", "parquet"])
@pytest.mark.parametrize("seed", range(3))
def test_twenty_kills(tmp_path, table_format, seed):
    """Four kills a run at moments drawn over its waves, the first of them inside a commit, over six runs: 24 kills."""
    draw = random.Random(f"{table_format} {seed}")
    moments = sorted(draw.uniform(0, 6.5) for _ in range(4))
    whats = [draw.choice(["machine", "driver"]) for _ in range(3)] + ["worker"]
    shop = Shop(tmp_path / "shop", table_format)
    for number, (moment, what) in enumerate(zip(moments, whats, strict=True)):
        phase = moment % 1 * 1.5  # a wave takes a second or two
        run_until(shop, Kill(what, int(moment), phase, in_commit=number == 0))
        print(f"killed {what} at {moment:.2f} of 8 waves, {len(shop.contents())} of {ROWS} contents committed")
    check(shop, finish(shop))
