"""The packed environment of docs/deployment.md: made by the lines that it shows, then a night on executors with it."""

import os
import subprocess
from pathlib import Path

import pytest
from checkout import ROOT, ready
from pages import commands

from samestyle.demo.catalogue import write_demo_catalogue
from samestyle.encoder.sources import default_kind

JARS = sorted((ROOT / ".cache" / "jars").glob("*.jar"))
ENCODER = ROOT / ".cache" / "encoders" / default_kind()
SMALL = ["embed.task_rows=30", "evaluation.queries=40", "index.ef_search=[40]"]
SMALL += ["modules.homepage=null", "modules.history=null", "modules.search.views=[fused]"]

pytestmark = pytest.mark.skipif(
    not JARS or not (ENCODER / "encoder.json").exists(), reason="needs Delta's jars and the encoder: make setup"
)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("packed")
    for command in commands("docs/deployment.md"):
        if command.block == "sh":
            here = command.text.replace("data/packed", str(folder / "packed"))
            ended = subprocess.run(["bash", "-c", here], cwd=ROOT, capture_output=True, text=True)
            assert ended.returncode == 0, f"{here}\n{ended.stdout[-2000:]}\n{ended.stderr[-2000:]}"
    return folder / "packed.tar.gz"


@pytest.mark.soak
def test_a_night_on_executors_that_have_the_archive_alone(archive, tmp_path):
    """Installs from the package index. The executors' Python is the archive's, which the night's records show."""
    demo = write_demo_catalogue(tmp_path / "shop", 60, processes=1)
    given = [f"catalogue.path={demo.path}", f"catalogue.image_root={demo.image_root}", f"encoder.path={ENCODER}"]
    given += [f"paths.root={tmp_path / 'results'}", "paths.shared=true"]
    spark = ["--master", "local-cluster[2,1,1024]", "--driver-memory", "1g", "--archives", f"{archive}#environment"]
    spark += ["--conf", "spark.pyspark.python=environment/bin/python"]
    environment = ready() | {"SAMESTYLE_JARS": ",".join(map(str, JARS)), "SPARK_LOCAL_IP": "127.0.0.1"}
    environment |= {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    spark += ["--conf", f"spark.pyspark.driver.python={environment['SAMESTYLE_PYTHON']}"]
    command = [str(ROOT / "spark-submit.sh"), "nightly", "--env", "dev", *given, *SMALL, "--", *spark]
    ended = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-3000:]
    assert "published release" in ended.stdout + ended.stderr
