"""A copy of what spark-submit.sh needs, with jobs of the test's own; the real checkout stays untouched."""

import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# For processes of a minute the better compiler does not pay, as in conf/spark/demo.conf.
QUICK_START = "-XX:TieredStopAtLevel=1 -XX:ReservedCodeCacheSize=240m -XX:+UseSerialGC"
COPIED = ("spark-submit.sh", "conf", "samestyle", "udfs", "pyproject.toml", "requirements.txt")


def copy_checkout(folder: Path, jobs: dict[str, str]) -> Path:
    """Copy the script, its configuration and the code to `folder`; `jobs` are module names and sources."""
    folder.mkdir(parents=True)
    for name in COPIED:
        source = ROOT / name
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(source, folder / name, ignore=ignored) if source.is_dir() else shutil.copy2(
            source, folder / name
        )
    (folder / "jobs").mkdir()
    for name, text in {"__init__": "", **jobs}.items():
        (folder / "jobs" / f"{name}.py").write_text(text)
    return folder


def spark_folder() -> str:
    """The Spark of this Python environment, as a SPARK_HOME."""
    spec = find_spec("pyspark")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    return spec.submodule_search_locations[0]


def ready() -> dict[str, str]:
    """Environment of a machine where nothing has to be installed; the jars are named, not read."""
    return {
        "SAMESTYLE_PYTHON": sys.executable,
        "SPARK_HOME": spark_folder(),
        "SAMESTYLE_JARS": "/jars/delta.jar",
    }


def submit(
    checkout: Path, *words: str, cwd: Path | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run the copy's spark-submit.sh with a nearly empty environment; never raises."""
    basic = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": str(checkout.parent)}
    command = [str(checkout / "spark-submit.sh"), *words]
    return subprocess.run(command, cwd=cwd, env=basic | environment, capture_output=True, text=True)
