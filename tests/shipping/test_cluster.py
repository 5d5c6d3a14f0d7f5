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
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from checkout import ROOT, ready, spark_folder

from samestyle.demo.catalogue import DemoCatalogue, write_demo_catalogue
from samestyle.release.manifest import Manifest
from samestyle.release.publish import current_release, verify_release
from samestyle.release.store import open_store

OFFERS = 60
JARS = sorted((ROOT / ".cache" / "jars").glob("*.jar"))
ENCODER = ROOT / ".cache" / "encoders" / "late_fusion"
SMALL = ["embed.wave_rows=100", "embed.task_rows=20", "evaluation.queries=40"] + [
    f"modules.{name}.shard_rows=30" for name in ("search", "homepage", "history")
]
OLD_COPY = 'raise ImportError("the old copy of samestyle on this host was imported")\n'
IMPORTED = re.compile(r"^import '([\w.]+)' # <(.*)>$", flags=re.MULTILINE)

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

    def executor_logs(self, app: int) -> list[str]:
        """What the executors of the cluster's n-th application printed, their Python workers' words in it."""
        folders = sorted((self.folder / "work").iterdir())
        return [path.read_text() for path in sorted(folders[app].glob("*/stderr"))]


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


@pytest.fixture(scope="module")
def cluster(tmp_path_factory) -> Iterator[Cluster]:
    """One core and 1 GB a worker. On the workers' hosts lies an old copy of samestyle, ahead of site-packages."""
    folder = tmp_path_factory.mktemp("cluster")
    old = folder / "old" / "samestyle"
    old.mkdir(parents=True)
    (old / "__init__.py").write_text(OLD_COPY)
    (folder / "old" / "sitecustomize.py").write_text("")
    variables = {"SPARK_HOME": spark_folder(), "SPARK_LOCAL_IP": "127.0.0.1", "SPARK_DAEMON_MEMORY": "256m"}
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
            start(name, "worker.Worker", *size, master, PYTHONPATH=str(folder / "old"))
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
        # Python says on stderr what it imports, and from where.
        "--conf=spark.executorEnv.PYTHONVERBOSE=1",
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
    before = sorted(path.name for path in packages.iterdir())
    ended = submit_nightly(cluster, catalogue, tmp_path_factory.mktemp("night"), "paths.shared=true")
    assert ended.code == 0, ended.text
    assert sorted(path.name for path in packages.iterdir()) == before
    return ended


@pytest.fixture(scope="module")
def release(night) -> Manifest:
    return current_release(open_store(night.root / "store"))[1]


@pytest.fixture(scope="module")
def imported(cluster, night) -> list[dict[str, str]]:
    """For each executor of the night: what its Python workers imported, module by module, and by which loader."""
    return [dict(IMPORTED.findall(log)) for log in cluster.executor_logs(0)]


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
    archive = f"/samestyle-{release.code_version}.zip"
    for loaders in imported:
        ours = {name: loader for name, loader in loaders.items() if name.partition(".")[0] in ("samestyle", "udfs")}
        assert {"samestyle.encoder.runtime", "samestyle.index.build", "udfs.embed"} <= set(ours)
        assert not {name: loader for name, loader in ours.items() if archive not in loader}


def test_the_old_copy_was_on_the_workers_path(cluster, imported):
    assert all(str(cluster.folder / "old") in loaders["sitecustomize"] for loaders in imported)


def test_workers_load_what_they_need_only(imported):
    unwanted = ("jobs", "torch", "transformers", "pydantic", "boto3", "delta", "skia", "matplotlib")
    roots = {name.partition(".")[0] for loaders in imported for name in loaders}
    assert {"onnxruntime", "hnswlib", "pyarrow"} <= roots
    assert not roots & set(unwanted)


def test_a_local_folder_is_refused_unless_it_is_declared_shared(cluster, catalogue, tmp_path):
    ended = submit_nightly(cluster, catalogue, tmp_path)
    assert ended.code == 2, ended.text
    expected = f"paths.root={ended.root} is a local path and the master is {cluster.master}: executors may not see it"
    assert expected in ended.text
    assert "paths.shared=true" in ended.text
    assert not list(ended.root.iterdir())
