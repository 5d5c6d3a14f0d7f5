"""Every notebook runs from its first cell to its last, on two nights of the demo, draws, and is kept small."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest

from notebooks.run import run

NOTEBOOKS = sorted((Path(__file__).resolve().parents[2] / "notebooks").glob("*.ipynb"))
# A path from the root of a machine, and not the end of an address or of another path.
ABSOLUTE = re.compile(r"(?:(?<![\w/.<>*`-])|(?<=file://))/[\w.-]+/[\w.-]+")
# That each draws at least.
PICTURES = {"01": 7, "02": 5, "03": 5, "04": 7, "05": 5}
# So small a shop has hardly a pair that is as near as the default asks for, and hardly a group to set aside.
SETTINGS = "pairs.fused_min=0.5 pairs.validation_share=0.4 pairs.test_share=0 train.warmup=1"
QUICK = {"SAMESTYLE_SETTINGS": SETTINGS, "SAMESTYLE_STEPS": "3", "SAMESTYLE_SAMPLE": "60", "SAMESTYLE_QUERIES": "50"}


@pytest.fixture(scope="module")
def two_nights(second_night, tmp_path_factory) -> Path:
    """A copy of paths.root: 01 writes pairs, 05 an encoder."""
    root = tmp_path_factory.mktemp("notebooks") / "root"
    shutil.copytree(second_night.root, root)
    return root


# Each time the one that reads most of a release, and both nights; `make soak` runs them all.
RUN = [pytest.param(path, marks=[] if path.stem == "04_releases" else pytest.mark.soak) for path in NOTEBOOKS]


@pytest.mark.parametrize("path", RUN, ids=lambda path: path.stem)
def test_runs_on_two_nights(path: Path, spark, two_nights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """In this process, with the suite's Spark session: a kernel for each notebook would start a JVM each."""
    monkeypatch.chdir(path.parent)
    for name, value in {**QUICK, "SAMESTYLE_ROOT": str(two_nights), "IPYTHONDIR": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    assert pictures(run(path)) >= PICTURES[path.stem[:2]]


def texts(notebook: nbformat.NotebookNode) -> Iterator[str]:
    """All of a notebook but its pictures: what its cells say, what they have printed, what it tells of itself."""
    yield str(notebook.metadata)
    for cell in notebook.cells:
        yield from (cell.source, str(cell.metadata))
        for output in cell.get("outputs", []):
            yield output.get("text", "")
            yield from (text for kind, text in output.get("data", {}).items() if kind.startswith("text/"))


def pictures(notebook: nbformat.NotebookNode) -> int:
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return sum("image/jpeg" in output.get("data", {}) for output in outputs)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_is_small_has_run_and_names_no_machine(path: Path):
    assert path.stat().st_size < 300_000
    notebook = nbformat.read(path, as_version=4)
    assert [place for text in texts(notebook) for place in ABSOLUTE.findall(text)] == []
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert pictures(notebook) >= PICTURES[path.stem[:2]]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_holds_no_logic(path: Path):
    """What is more than a call belongs to the library, where it has tests."""
    cells = [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    lines = [[line for line in cell.splitlines() if not line.startswith(("from ", "import "))] for cell in cells]
    assert max(map(len, lines)) < 15
    assert not [line for cell in lines for line in cell if line.startswith(("def ", "class ", "try:", "if ", "while "))]
