"""The commands in ```bash blocks, and the Python examples, run in the order of the pages, as they are printed.

`make test` leaves out those that start a night which README.md does not show, and what looks at such a night.

What else the pages show is run by other tests: tests/core/test_pages.py names them.
"""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from checkout import COPIED, ROOT
from pages import PAGES, blocks, commands

from samestyle.encoder.sources import default_kind

WEB = "docs/web.md"
# The Python of other pages continues what their readers have: an encoder's folder, a table of their own. That of
# docs/tables.md needs Spark: tests/jobs/test_nightly.py runs it.
EXAMPLES = ["README.md", *[f"docs/{name}.md" for name in ("concepts", "operations", "serving", "settings")]]
# A shop small enough to wait for, but with the item that the examples name; of the modules the one that they open.
SEARCH_ONLY = (
    "  homepage:\n    shard_rows: 1200\n  history:\n    shard_rows: 1200\n",
    "  homepage: null\n  history: null\n",
)
SMALL = "\ndemo:\n  offers: 220\nevaluation:\n  queries: 50\nindex:\n  ef_search: [10, 40]\n"
# Minutes of Spark, and what looks at the release of another shop.
NIGHTS = re.compile(r"\./spark-submit\.sh .*|.* --settings .*")
SMALL_SPARK = "\nspark.sql.shuffle.partitions 2\nspark.databricks.delta.snapshotPartitions 1\n"
READY = all((ROOT / ".cache" / name).exists() for name in ("jars", f"encoders/{default_kind()}/encoder.json"))

pytestmark = pytest.mark.skipif(not READY, reason="needs Delta's jars and the encoder: make setup")


def lines(page: str) -> list[str]:
    return [command.text for command in commands(page) if command.block == "bash"]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Path:
    """A copy of the checkout whose demo shop is small; what set-up installed is linked."""
    folder = tmp_path_factory.mktemp("docs") / "samestyle"
    folder.mkdir()
    for name in (*COPIED, "jobs", "docs", "README.md", "Makefile"):
        source = ROOT / name
        copy = shutil.copytree if source.is_dir() else shutil.copy2
        copy(source, folder / name)
    demo = folder / "conf" / "demo.yaml"
    assert SEARCH_ONLY[0] in demo.read_text()
    demo.write_text(demo.read_text().replace(*SEARCH_ONLY) + SMALL)
    with (folder / "conf" / "spark" / "demo.conf").open("a") as settings:
        settings.write(SMALL_SPARK)
    (folder / ".cache").mkdir()
    for name in ("jars", "encoders"):
        (folder / ".cache" / name).symlink_to(ROOT / ".cache" / name)
    (folder / ".venv").symlink_to(sys.prefix)
    return folder


def environment(checkout: Path) -> dict[str, str]:
    return {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "HOME": str(checkout.parent),
        "PYTHONPATH": str(checkout),
        "SAMESTYLE_PYTHON": sys.executable,
        "SAMESTYLE_HOME": str(checkout),
        "SPARK_LOCAL_IP": "127.0.0.1",
    }


def run(checkout: Path, *command: str, text: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=checkout, env=environment(checkout), input=text, capture_output=True, text=True)


def assert_ends_well(checkout: Path, command: str) -> str:
    ended = run(checkout, "bash", "-c", command)
    assert ended.returncode == 0, f"{command}\n{ended.stdout[-3000:]}\n{ended.stderr[-3000:]}"
    return ended.stdout


def filled_in(checkout: Path, command: str) -> str:
    """With the ids of this shop's releases, which a reader takes from `releases list`; of make, what it would do."""
    releases = sorted(path.name for path in checkout.glob("data/demo/store/releases/*"))
    for place, name in {"CURRENT_ID": releases[-1:], "CANDIDATE_ID": releases[:1]}.items():
        command = command.replace(place, *name or ["none"])
    return command.replace("make ", "make --dry-run ", 1) if command.startswith("make ") else command


@pytest.mark.parametrize(
    "every", [pytest.param(False, id="quick"), pytest.param(True, id="all", marks=pytest.mark.soak)]
)
def test_the_commands_of_the_pages_end_well(checkout, every):
    # Each once: pages repeat the first one, and it would find nothing to do.
    listed = list(dict.fromkeys(line for page in PAGES if page != WEB for line in lines(page)))
    assert {"./spark-submit.sh nightly", "make test", "./spark-submit.sh nightly demo.day=2"} <= set(listed)
    assert ".venv/bin/samestyle releases rollback" in listed
    late = [line for line in listed if NIGHTS.fullmatch(line) and line not in lines("README.md")]
    assert len(late) == 4, late
    for command in listed if every else [line for line in listed if line not in late]:
        assert_ends_well(checkout, filled_in(checkout, command))


@contextmanager
def serving(checkout: Path) -> Iterator[str]:
    """Where `samestyle serve` answers meanwhile."""
    words = [".venv/bin/samestyle", "serve", "--port", "0"]
    with subprocess.Popen(words, cwd=checkout, env=environment(checkout), stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout
            found = re.fullmatch(
                r"release \S+ at (http://127\.0\.0\.1:\d+) \(Ctrl-C ends\)\n", server.stdout.readline()
            )
            assert found
            yield found.group(1)
        finally:
            server.terminate()


@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")
def test_the_web_application_answers_as_its_page_says(checkout):
    """After the nights of the test above."""
    photo = max((checkout / "data" / "demo" / "catalogue").rglob("*.jpg"), key=lambda path: path.stat().st_size)
    shutil.copy(photo, checkout / "mug.jpg")
    with serving(checkout) as address:
        for command in lines(WEB):
            asked = command.replace("http://127.0.0.1:8000", address).replace("curl ", "curl -sS --fail-with-body ", 1)
            assert '"release_id"' in assert_ends_well(checkout, asked), command


@pytest.mark.parametrize("page", [page for page in EXAMPLES if blocks(page, "python")])
def test_the_examples_of_a_page_run_in_order(checkout, page):
    ended = run(checkout, sys.executable, "-", text="\n".join(blocks(page, "python")))
    assert ended.returncode == 0, ended.stdout[-2000:] + ended.stderr[-3000:]
    assert ended.stdout.strip()
