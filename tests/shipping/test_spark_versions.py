"""Other versions of Spark, each with its Delta in an environment of its own: what meets Spark passes there too."""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from checkout import ROOT

# Spark -> Delta's Python package, and its jar in Maven Central.
VERSIONS = {
    "4.0.1": ("4.0.0", "io.delta:delta-spark_2.13:4.0.0"),
    "3.5.7": ("3.3.2", "io.delta:delta-spark_2.12:3.3.2"),
}
SUITE = ["tests/spark", "tests/jobs/test_nightly.py"]
DELTA_NEEDS = "com.*:*,org.*:*,commons-*:*,javax.*:*,io.airlift:*"  # all of which Spark ships itself


def run(*words: str | Path, **environment: str) -> str:
    ended = subprocess.run(
        list(map(str, words)), cwd=ROOT, env=os.environ | environment, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stdout[-5000:] + ended.stderr[-3000:]
    return ended.stdout


def make_environment(folder: Path, spark: str, delta: str) -> Path:
    """A Python that has another pyspark, and else what this one has."""
    run(sys.executable, "-m", "venv", folder)
    python = folder / "bin" / "python"
    run(python, "-m", "pip", "install", "-q", "--no-deps", f"pyspark=={spark}", f"delta-spark=={delta}")
    site, ours = (Path(path) for path in (run(python, "-c", SITE).strip(), sysconfig.get_path("purelib")))
    (site / "after.pth").write_text(f"import site; site.addsitedir({str(ours)!r})\n")
    return python


SITE = "import sysconfig; print(sysconfig.get_path('purelib'))"


def fetch_jars(python: Path, folder: Path, package: str) -> str:
    """Delta's jars by Spark's own resolver, separated by commas."""
    home = run(python, "-c", "import pyspark; print(pyspark.__path__[0])").strip()
    nothing = folder / "nothing.py"
    nothing.write_text("")
    words = ["--master", "local[1]", "--packages", package, "--conf", f"spark.jars.excludes={DELTA_NEEDS}"]
    words += ["--conf", f"spark.jars.ivy={folder / 'ivy'}", str(nothing)]
    run(f"{home}/bin/spark-submit", *words, PYSPARK_PYTHON=str(python), SPARK_HOME=home)
    return ",".join(map(str, sorted((folder / "ivy" / "jars").glob("*.jar"))))


@pytest.mark.soak
@pytest.mark.parametrize("spark", VERSIONS)
def test_what_meets_spark_passes(spark: str, tmp_path: Path) -> None:
    """Installs from the package index and Maven Central; some minutes each."""
    delta, package = VERSIONS[spark]
    python = make_environment(tmp_path / "environment", spark, delta)
    assert run(python, "-c", "import pyspark; print(pyspark.__version__)").strip() == spark
    jars = fetch_jars(python, tmp_path, package)
    told = run(python, "-m", "pytest", *SUITE, SAMESTYLE_JARS=jars)
    assert " passed" in told
    print(f"Spark {spark}: {told.strip().splitlines()[-1]}")
