"""Two nights at once, and a night that is killed: real processes, started as a scheduler starts them."""

import json
import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from checkout import ROOT, ready

from samestyle.encoder.sources import default_kind

OFFERS = 60
JARS = sorted((ROOT / ".cache" / "jars").glob("*.jar"))
ENCODER = ROOT / ".cache" / "encoders" / default_kind()
STATES = ("fresh", "reused", "stale", "degraded", "rejected")
# A lease so long that only the holder's death can end it.
SETTINGS = [f"demo.offers={OFFERS}", "embed.wave_rows=12", "embed.task_rows=12", "lock.lease_s=86400"]
SETTINGS += ["evaluation.queries=40", "index.ef_search=[40]"]
SETTINGS += ["modules.search.shard_rows=40", "modules.search.views=[fused]"]
SETTINGS += ["modules.homepage=null", "modules.history=null"]

pytestmark = pytest.mark.skipif(
    not JARS or not (ENCODER / "encoder.json").exists(), reason="needs Delta's jars and the encoder: make setup"
)


@dataclass(frozen=True)
class Ended:
    code: int
    text: str


@dataclass(frozen=True)
class Story:
    """What became of three nights on one folder: killed while it embedded, refused meanwhile, started again.

    `frozen`: the folder's files while the first night stood still; `after_second`: the same once the second was over.
    """

    root: Path
    first_run: str
    committed: Counter[str]
    frozen: dict[str, bytes]
    after_second: dict[str, bytes]
    second: Ended
    third: Ended
    third_job: str

    def record(self, run_id: str, name: str) -> dict:
        return json.loads((self.root / "runs" / run_id / f"{name}.json").read_text())


def start_night(root: Path, job: str = "nightly") -> subprocess.Popen[str]:
    words = [str(ROOT / "spark-submit.sh"), job, "--env", "demo", f"paths.root={root}", *SETTINGS]
    environment = ready() | {"PATH": os.environ["PATH"], "SAMESTYLE_JARS": ",".join(map(str, JARS))}
    return subprocess.Popen(
        words,
        env=environment | {"HOME": str(root.parent)},
        cwd=root.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str]) -> Ended:
    text, _ = process.communicate()
    return Ended(process.returncode, text)


def commits(table: Path) -> list[Path]:
    return sorted((table / "_delta_log").glob("*.json"))


def embedded_contents(root: Path) -> Counter[str]:
    """content_key -> its rows in the embeddings table, as Delta's log has them: committed ones only."""
    table = root / "tables" / "embeddings"
    actions = [json.loads(line) for commit in commits(table) for line in commit.read_text().splitlines()]
    assert not any("remove" in action for action in actions)
    files = [table / action["add"]["path"] for action in actions if "add" in action]
    return Counter(
        key for file in files for key in pq.read_table(file, columns=["content_key"])["content_key"].to_pylist()
    )


def files_below(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def stop_while_it_embeds(process: subprocess.Popen[str], root: Path) -> None:
    """Let two waves be committed, then make the night stand still: alive, holding the lock, writing nothing."""
    while len(commits(root / "tables" / "embeddings")) < 2:
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGSTOP)


# A killed night goes on from what is embedded; that a whole one comes of it is asked in the soak.
@pytest.fixture(scope="module", params=["embed", pytest.param("nightly", marks=pytest.mark.soak)])
def story(request, tmp_path_factory) -> Iterator[Story]:
    root = tmp_path_factory.mktemp("two nights") / "demo"
    nights = [start_night(root)]
    try:
        stop_while_it_embeds(nights[0], root)
        (first_run,) = [path.name for path in (root / "runs").iterdir()]
        frozen, committed = files_below(root), embedded_contents(root)
        nights.append(start_night(root))
        second = finish(nights[1])
        after_second = files_below(root)
        os.killpg(nights[0].pid, signal.SIGKILL)
        nights[0].communicate()
        nights.append(start_night(root, request.param))
        third = finish(nights[2])
        yield Story(root, first_run, committed, frozen, after_second, second, third, request.param)
    finally:
        for night in nights:
            if night.poll() is None:
                os.killpg(night.pid, signal.SIGKILL)
                night.communicate()


def test_the_first_night_was_in_the_middle_of_embedding(story):
    assert story.committed
    assert f"runs/{story.first_run}/start.json" in story.frozen
    assert f"runs/{story.first_run}/embed.json" not in story.frozen


def test_a_second_night_ends_with_4_and_names_the_holder(story):
    assert story.second.code == 4, story.second.text
    assert f"locks/nightly is held by run {story.first_run} (process " in story.second.text
    assert "Traceback" not in story.second.text


def test_the_second_night_writes_nothing_but_its_own_summary(story):
    changed = {name for name, data in story.after_second.items() if story.frozen.get(name) != data}
    (other,) = {path.name for path in (story.root / "runs").iterdir()} - {story.first_run}
    assert changed == {f"runs/{other}/summary.json"}
    assert story.frozen.keys() <= story.after_second.keys()
    summary = story.record(other, "summary")
    assert (summary["outcome"], summary["exit_code"]) == ("conflict", 4)
    assert story.first_run in summary["error"]


def test_the_third_night_goes_on_with_the_killed_one(story):
    assert story.third.code == 0, story.third.text
    assert f"took over the lock: run {story.first_run} " in story.third.text
    assert len(list((story.root / "runs").iterdir())) == 2
    assert json.loads((story.root / "store" / "locks" / "nightly").read_text())["holder"] is None
    if story.third_job == "nightly":
        assert f"published release {story.first_run}" in story.third.text
        assert json.loads((story.root / "store" / "channels" / "current").read_text())["release_id"] == story.first_run


def test_only_the_rest_was_embedded(story):
    contents = embedded_contents(story.root)
    assert set(contents.values()) == {1}
    assert story.committed.keys() < contents.keys()
    attempted = story.record(story.first_run, "embed")["attempted"]
    assert attempted == contents.total() - story.committed.total()


def test_the_sums_add_up(story):
    counts = story.record(story.first_run, "summary")["counts"]
    assert counts["read"] == OFFERS == sum(counts[state] for state in STATES)
    assert counts["reused"] == counts["stale"] == 0
