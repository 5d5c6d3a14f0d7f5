"""Which code runs: on the driver, on the workers, in a release's manifest."""

from importlib import resources

from samestyle import __version__


def code_version() -> str:
    """The commit and digest that spark-submit.sh puts into the code zip; the package's version in a plain checkout."""
    stamp = resources.files("samestyle") / "_code_version.txt"
    return stamp.read_text(encoding="utf-8").strip() if stamp.is_file() else __version__
