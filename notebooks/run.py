"""Run the notebooks in their order, in one process, and keep what they show: python notebooks/run.py [NAME ...]

Needs the extra `dev` and two nights: ./spark-submit.sh nightly, then ./spark-submit.sh nightly demo.day=2.
"""

import io
import os
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import nbformat
from IPython.core.displayhook import DisplayHook
from IPython.core.interactiveshell import InteractiveShell
from matplotlib_inline.config import InlineBackend
from nbformat.v4 import new_output
from traitlets import Type

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent


class Shown(DisplayHook):
    """Keeps what a cell's last expression looks like, by kind: image/jpeg, text/plain."""

    data: dict[str, Any] | None = None

    def write_output_prompt(self) -> None:
        """There is no terminal."""

    def write_format_data(self, format_dict: dict[str, Any], md_dict: dict[str, Any] | None = None) -> None:
        self.data = format_dict


class Shell(InteractiveShell):
    """A kernel's shell without the kernel: one Spark session serves all notebooks, and tests have theirs used."""

    displayhook_class = Type(Shown)

    def enable_gui(self, gui: str | None = None) -> None:
        """Pictures are drawn into the page."""


def run(path: Path) -> nbformat.NotebookNode:
    """The notebook with what its cells show now. Raises RuntimeError from what a cell raises."""
    notebook = nbformat.read(path, as_version=4)
    hooks, shell = (sys.excepthook, sys.displayhook), Shell.instance(colors="nocolor")
    try:
        code = [cell for cell in notebook.cells if cell.cell_type == "code"]
        for number, cell in enumerate(code, 1):
            cell.execution_count = number
            cell.outputs = outputs_of(shell, cell.source, number)
    finally:
        sys.excepthook, sys.displayhook = hooks
        Shell.clear_instance()
        InlineBackend.clear_instance()
    return notebook


def outputs_of(shell: Shell, source: str, number: int) -> list[nbformat.NotebookNode]:
    shell.displayhook.data = None
    with redirect_stdout(io.StringIO()) as printed:
        ended = shell.run_cell(source)
    if error := ended.error_before_exec or ended.error_in_exec:
        raise RuntimeError(f"cell {number}:\n{source}\n{printed.getvalue()}") from error
    outputs = []
    if printed.getvalue():
        outputs.append(new_output("stream", name="stdout", text=printed.getvalue()))
    if shell.displayhook.data:
        outputs.append(new_output("execute_result", data=shell.displayhook.data, execution_count=number))
    return outputs


def main(names: list[str]) -> None:
    os.chdir(HERE)
    for path in sorted(HERE.glob("*.ipynb")):
        if not names or path.stem in names:
            text = nbformat.writes(run(path)).replace(f"{ROOT}/", "")  # no names of this machine
            path.write_text(text + "\n", encoding="utf-8")
            print(f"{path.name}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main(sys.argv[1:])
