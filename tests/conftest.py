"""What all rooms of tests share: the checkout, the real data where it is there, one Spark session for the suite."""

import os
import sys
import uuid
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from object_store import ObjectStore, serve_objects

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT.parent / "shared" / "data"
SPARK = find_spec("pyspark") is not None


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """A machine with a GPU may have neither Spark nor Java: there, files without a test for GPUs are not imported."""
    if SPARK or not collection_path.match("test_*.py"):
        return None
    return "pytest.mark.gpu" not in collection_path.read_text(encoding="utf-8")


@pytest.fixture(scope="session")
def data_folder() -> Path:
    if not DATA.is_dir():
        pytest.skip(f"the real product data is not at {DATA}")
    return DATA


@pytest.fixture(scope="session")
def object_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    """One S3 server for the suite; a test makes buckets of its own: `object_store.new_bucket()`."""
    with serve_objects(tmp_path_factory.mktemp("object_store")) as store:
        yield store


@pytest.fixture(scope="session")
def spark_session() -> Iterator:
    """One JVM for the suite. The settings are those of conf/spark/demo.conf, which the demo runs with."""
    from pyspark.sql import SparkSession

    os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
    os.environ["PYSPARK_PYTHON"] = sys.executable
    os.environ["SAMESTYLE_HOME"] = str(ROOT)
    os.environ["PYTHONPATH"] = str(ROOT)  # workers import udfs from here; with spark-submit it is the zip
    installed = ",".join(map(str, sorted((ROOT / ".cache" / "jars").glob("*.jar"))))
    jars = os.environ.get("SAMESTYLE_JARS", installed)  # of another Spark, as spark-submit.sh takes them
    builder = SparkSession.builder.appName("tests").config("spark.jars", jars)
    for line in (ROOT / "conf" / "spark" / "demo.conf").read_text().splitlines():
        if line.strip() and not line.startswith("#"):
            builder = builder.config(*line.split(None, 1))
    # Two cores, and few tasks: the tables of tests have tens of rows.
    few = {"spark.sql.shuffle.partitions": 2, "spark.default.parallelism": 2}
    few |= {"spark.databricks.delta.snapshotPartitions": 1, "spark.sql.files.minPartitionNum": 1}
    builder = builder.master("local[2,4]").config(map=few).config("spark.python.daemon.module", "tests.daemon")
    session = builder.getOrCreate()
    session.sparkContext.setLogLevel("ERROR")
    yield session
    session.stop()


@pytest.fixture
def spark(spark_session, tmp_path: Path) -> Iterator:
    """The session, with nothing left of the test before: no cached table, an own database for named tables."""
    name = f"test_{uuid.uuid4().hex[:8]}"
    spark_session.sql(f"create database {name} location '{tmp_path / 'warehouse'}'")
    spark_session.sql(f"use {name}")
    yield spark_session
    spark_session.catalog.clearCache()
    spark_session.sql("use default")
    spark_session.sql(f"drop database {name} cascade")
