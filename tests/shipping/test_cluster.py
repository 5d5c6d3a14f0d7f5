"""The night on a cluster of its own: a standalone master and two workers, without any network but the loopback.

The cluster brings its own Spark and Python; our code reaches the executors by --py-files alone.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from checkout import QUICK_START, ROOT, ready, spark_folder

from samestyle.demo.catalogue import DemoCatalogue, write_demo_catalogue
from samestyle.encoder.sources import default_kind
from samestyle.release.manifest import Manifest
from samestyle.release.publish import current_release, verify_release
from samestyle.release.store import open_store

OFFERS = 60
JARS = sorted((ROOT / ".cache" / "jars").glob("*.jar"))
ENCODER = ROOT / ".cache" / "encoders" / default_kind()
SMALL = ["embed.wave_rows=100", "embed.task_rows=20", "evaluation.queries=40", "index.ef_search=[40]"]
SMALL += ["modules.search.shard_rows=30", "modules.homepage=null", "modules.history=null"]
OLD_COPY = 'raise ImportError("the old copy of samestyle on this host was imported")\n'
# Python runs this file as it starts: here it writes down what the workers of this host import, and from where.
SITECUSTOMIZE = """
import sys
from pathlib import Path


class Recorder:
    def find_spec(self, name, path=None, target=None):
        others = (finder.find_spec(name, path, target) for finder in sys.meta_path if finder is not self)
        spec = next(filter(None, others), None)
        if spec:
            with Path(__file__).with_name("imported").open("a") as file:
                file.write(f"{name} {spec.origin}\\n")
        return spec


sys.meta_path.insert(0, Recorder())
"""

pytestmark = pytest.mark.skipif(
    not JARS or not (ENCODER / "encoder.json").exists(), reason="needs Delta's jars and the encoder: make setup"
)


@dataclass(frozen=True)
class Cluster:
    """`prefix`: words that start a command where the cluster runs; `why_open`: why that place has a network."""

    master: str
    prefix: list[str]
    why_open: str | None
    folder: Path


@dataclass(frozen=True)
class Ended:
    code: int
    text: str
    root: Path


@contextmanager
def running(words: list[str], log: Path, **environment: str) -> Iterator[subprocess.Popen]:
    """A process, and all that it starts, for as long as the block lasts."""
    with log.open("w") as out:
        process = subprocess.Popen(
            words,
            env={"PATH": os.environ["PATH"], "HOME": str(log.parent), **environment},
            cwd=log.parent,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def wait_for(pattern: str, log: Path, process: subprocess.Popen) -> str:
    """The pattern's first group, once the process has printed it."""
    while not (found := re.search(pattern, log.read_text())):
        assert process.poll() is None, log.read_text()
        time.sleep(0.1)
    return found.group(1)


def no_network(stack: ExitStack, log: Path) -> tuple[list[str], str | None]:
    """Words that start a command in a network namespace with nothing but a loopback; why not, where that is barred."""
    if not all(map(shutil.which, ("unshare", "nsenter", "ip"))):
        return [], "unshare, nsenter or ip is not installed"
    ready_to_use = "ip link set lo up && echo namespace ready && exec sleep infinity"
    words = ["unshare", "--net", "sh", "-c", ready_to_use]
    holder = stack.enter_context(running(words, log))
    try:
        wait_for("namespace (ready)", log, holder)
    except AssertionError:
        return [], f"no network namespace here: {log.read_text().strip()}"
    return ["nsenter", f"--net=/proc/{holder.pid}/ns/net"], None


def old_packages(folder: Path) -> Path:
    """A host's Python packages, with an old copy of samestyle among them."""
    (folder / "samestyle").mkdir(parents=True)
    (folder / "samestyle" / "__init__.py").write_text(OLD_COPY)
    (folder / "sitecustomize.py").write_text(SITECUSTOMIZE)
    return folder


@pytest.fixture(scope="module")
def cluster(tmp_path_factory) -> Iterator[Cluster]:
    """One core and 1 GB a worker. On the workers' hosts lies an old copy of samestyle, ahead of site-packages."""
    folder = tmp_path_factory.mktemp("cluster")
    variables = {"SPARK_HOME": spark_folder(), "SPARK_LOCAL_IP": "127.0.0.1", "SPARK_DAEMON_MEMORY": "256m"}
    variables["SPARK_DAEMON_JAVA_OPTS"] = QUICK_START
    with ExitStack() as stack:
        prefix, why_open = no_network(stack, folder / "namespace.log")

        def start(name: str, *words: str, **more: str) -> tuple[Path, subprocess.Popen]:
            log = folder / f"{name}.log"
            kind = f"org.apache.spark.deploy.{words[0]}"
            command = [f"{spark_folder()}/bin/spark-class", kind, "--host", "127.0.0.1", "--port", "0"]
            command += ["--webui-port", "0", *words[1:]]
            return log, stack.enter_context(running([*prefix, *command], log, **variables, **more))

        master = wait_for(r"Starting Spark master at (spark://\S+)", *start("master", "master.Master"))
        size = ["--cores", "1", "--memory", "1g", "--work-dir", str(folder / "work")]
        workers = [
            start(name, "worker.Worker", *size, master, PYTHONPATH=str(old_packages(folder / "packages" / name)))
            for name in ("worker-1", "worker-2")
        ]
        for log, process in workers:
            wait_for(r"Successfully registered with master (\S+)", log, process)
        yield Cluster(master, prefix, why_open, folder)


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory) -> DemoCatalogue:
    return write_demo_catalogue(tmp_path_factory.mktemp("shop"), OFFERS, processes=1)


def submit_nightly(cluster: Cluster, demo: DemoCatalogue, root: Path, *settings: str) -> Ended:
    """From a folder that has nothing to do with the project, as a scheduler would."""
    elsewhere = root / "elsewhere"
    elsewhere.mkdir(parents=True)
    given = [
        f"catalogue.path={demo.path}",
        f"catalogue.image_root={demo.image_root}",
        f"clicks.path={demo.clicks_path}",
    ]
    given += ["catalogue.attributes=[price, in_stock]", f"encoder.path={ENCODER}", f"paths.root={root / 'results'}"]
    spark = [
        f"--master={cluster.master}",
        "--driver-memory=1g",
        "--conf=spark.sql.shuffle.partitions=2",
        "--conf=spark.databricks.delta.snapshotPartitions=1",
        "--conf=spark.scheduler.minRegisteredResourcesRatio=1.0",
        "--conf=spark.sql.codegen.wholeStage=false",
        "--conf=spark.sql.codegen.factoryMode=NO_CODEGEN",
        *[f"--conf=spark.{process}.extraJavaOptions={QUICK_START}" for process in ("driver", "executor")],
    ]
    script = str(ROOT / "spark-submit.sh")
    command = [*cluster.prefix, script, "nightly", "--env", "dev", *given, *SMALL, *settings, "--", *spark]
    environment = ready() | {
        "PATH": os.environ["PATH"],
        "HOME": str(root),
        "SAMESTYLE_JARS": ",".join(map(str, JARS)),
        "SPARK_LOCAL_IP": "127.0.0.1",
    }
    done = subprocess.run(command, cwd=elsewhere, env=environment, capture_output=True, text=True)
    return Ended(done.returncode, done.stdout + done.stderr, root / "results")


@pytest.fixture(scope="module")
def night(cluster, catalogue, tmp_path_factory) -> Ended:
    packages = Path(spark_folder()).parent
    before = installed(packages)
    ended = submit_nightly(cluster, catalogue, tmp_path_factory.mktemp("night"), "paths.shared=true")
    assert ended.code == 0, ended.text
    assert installed(packages) == before
    return ended


def installed(packages: Path) -> list[str]:
    """What lies there, but for Python's caches: any process that imports may write those at any time."""
    return sorted(path.name for path in packages.iterdir() if path.name != "__pycache__")


@pytest.fixture(scope="module")
def release(night) -> Manifest:
    current = current_release(open_store(night.root / "store"))
    assert current
    return current[1]


@pytest.fixture(scope="module")
def imported(cluster, night) -> list[dict[str, str]]:
    """For each host: what the Python workers of the night imported, module by module, and from which file."""
    files = sorted((cluster.folder / "packages").glob("*/imported"))
    return [dict(line.split(" ", 1) for line in file.read_text().splitlines()) for file in files]


def test_there_was_no_network(cluster):
    if cluster.why_open:
        pytest.skip(cluster.why_open)
    names = "import socket; print([name for _, name in socket.if_nameindex()])"
    done = subprocess.run([*cluster.prefix, sys.executable, "-c", names], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['lo']"


def test_the_night_publishes_a_release_that_verifies(night, release):
    assert verify_release(open_store(night.root / "store"), release.release_id).objects > 10
    summary = json.loads((night.root / "runs" / release.release_id / "summary.json").read_text())
    assert (summary["outcome"], summary["exit_code"], summary["counts"]["read"]) == ("done", 0, OFFERS)
    assert f"published release {release.release_id}" in night.text


def test_nothing_was_installed(night):
    assert "installing" not in night.text


def test_both_workers_run_the_code_of_the_driver_and_nothing_else(imported, release):
    """The old copy, the checkout and the installed package are all within the workers' reach."""
    assert len(imported) == 2
    archive = f"/samestyle-{release.code_version}.zip/"
    for files in imported:
        ours = {name: file for name, file in files.items() if name.partition(".")[0] in ("samestyle", "udfs")}
        assert {"samestyle.encoder.runtime", "samestyle.index.build", "udfs.embed"} <= set(ours)
        assert not {name: file for name, file in ours.items() if archive not in file}


def test_without_the_zip_the_old_copy_would_have_won(cluster):
    for packages in (cluster.folder / "packages").iterdir():
        words = [sys.executable, "-c", "import samestyle"]
        done = subprocess.run(words, env={"PYTHONPATH": str(packages)}, cwd="/", capture_output=True, text=True)
        assert OLD_COPY.split('"')[1] in done.stderr


def test_workers_load_what_they_need_only(imported):
    unwanted = ("jobs", "torch", "transformers", "pydantic", "boto3", "delta", "skia", "matplotlib")
    roots = {name.partition(".")[0] for files in imported for name in files}
    assert {"onnxruntime", "hnswlib", "pyarrow"} <= roots
    assert roots.intersection(unwanted) == set()


@pytest.mark.soak  # a driver and two executors for a sentence that tests/core/test_placement.py reads as well
def test_a_local_folder_is_refused_unless_it_is_declared_shared(cluster, catalogue, tmp_path):
    ended = submit_nightly(cluster, catalogue, tmp_path)
    assert ended.code == 2, ended.text
    expected = f"paths.root={ended.root} is a local path and the master is {cluster.master}: executors may not see it"
    assert expected in ended.text
    assert "paths.shared=true" in ended.text
    assert not list(ended.root.iterdir())
