"""Every command and every Python example of the README and docs runs, in the order of the pages, as it is printed."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from checkout import COPIED, ROOT

from samestyle.encoder.sources import default_kind

PAGES = ["README.md", *[f"docs/{name}.md" for name in ("concepts", "operations", "serving", "tables", "settings")]]
PAGES += ["CONTRIBUTING.md", "conf/examples/README.md"]
# A shop small enough to wait for, but with the item that the examples name.
SMALL = "\ndemo:\n  offers: 220\nevaluation:\n  queries: 50\nindex:\n  ef_search: [10, 40]\n"
READY = all((ROOT / ".cache" / name).exists() for name in ("jars", f"encoders/{default_kind()}/encoder.json"))

pytestmark = pytest.mark.skipif(not READY, reason="needs Delta's jars and the encoder: make setup")


def blocks(page: str, language: str) -> list[str]:
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)


def commands() -> list[str]:
    """Each command once: pages repeat the first one, and it would find nothing to do."""
    lines = [
        line.partition("#")[0].strip()
        for page in PAGES
        for block in blocks(page, "bash")
        for line in block.splitlines()
    ]
    return list(dict.fromkeys(line for line in lines if line))


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Path:
    """A copy of the checkout whose demo shop is small; what set-up installed is linked."""
    folder = tmp_path_factory.mktemp("docs") / "samestyle"
    folder.mkdir()
    for name in (*COPIED, "jobs", "docs", "README.md", "Makefile"):
        source = ROOT / name
        copy = shutil.copytree if source.is_dir() else shutil.copy2
        copy(source, folder / name)
    with (folder / "conf" / "demo.yaml").open("a") as settings:
        settings.write(SMALL)
    (folder / ".cache").mkdir()
    for name in ("jars", "encoders"):
        (folder / ".cache" / name).symlink_to(ROOT / ".cache" / name)
    (folder / ".venv" / "bin").mkdir(parents=True)
    (folder / ".venv" / "bin" / "samestyle").symlink_to(Path(sys.executable).parent / "samestyle")
    return folder


def run(checkout: Path, *command: str, text: str | None = None) -> subprocess.CompletedProcess[str]:
    environment = {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "HOME": str(checkout.parent),
        "PYTHONPATH": str(checkout),
        "SAMESTYLE_PYTHON": sys.executable,
        "SAMESTYLE_HOME": str(checkout),
        "SPARK_LOCAL_IP": "127.0.0.1",
    }
    return subprocess.run(command, cwd=checkout, env=environment, input=text, capture_output=True, text=True)


def test_the_commands_of_the_pages_end_well(checkout):
    listed = commands()
    assert {"./spark-submit.sh nightly", "make test", "./spark-submit.sh nightly demo.day=2"} <= set(listed)
    assert ".venv/bin/samestyle releases rollback" in listed
    for command in listed:
        # make test is what runs this; that it is there is all that can be asked.
        words = ["make", "--dry-run", "test"] if command == "make test" else ["bash", "-c", command]
        ended = run(checkout, *words)
        assert ended.returncode == 0, f"{command}\n{ended.stdout[-3000:]}\n{ended.stderr[-3000:]}"


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")])
def test_the_examples_of_a_page_run_in_order(checkout, page):
    ended = run(checkout, sys.executable, "-", text="\n".join(blocks(page, "python")))
    assert ended.returncode == 0, ended.stdout[-2000:] + ended.stderr[-3000:]
    assert ended.stdout.strip()
