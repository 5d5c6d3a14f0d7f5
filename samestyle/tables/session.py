"""The Spark session of a job. Settings of Spark itself stand in conf/spark/<env>.conf, passed by spark-submit.sh."""

from collections.abc import Iterator
from contextlib import contextmanager

from pyspark.sql import SparkSession

from samestyle.errors import UsageError
from samestyle.release.manifest import VIEWS
from samestyle.settings import Settings

# What Parquet looks for among the numbers of a column. Those of vectors do not repeat, and nobody asks for the largest:
# it would be two thirds of the work of writing them.
SEARCHES = ("parquet.enable.dictionary", "parquet.column.statistics.enabled", "parquet.size.statistics.enabled")


@contextmanager
def session(job: str) -> Iterator[SparkSession]:
    """The session that spark-submit started, or that is there already; ended only where this began it."""
    running = SparkSession.getActiveSession()
    spark = running or SparkSession.builder.appName(f"samestyle {job}").getOrCreate()
    adjust(spark)
    try:
        yield spark
    finally:
        if running is None:
            spark.stop()


def adjust(spark: SparkSession) -> None:
    """What must hold however the session was started."""
    spark.conf.set("spark.sql.session.timeZone", "UTC")
    for view in VIEWS:
        for search in SEARCHES:
            spark.conf.set(f"{search}#{view}_vector.list.element", "false")


def check_paths(spark: SparkSession, settings: Settings) -> None:
    """A local folder is no place for results where executors live on other hosts. Raises UsageError."""
    master, places = str(spark.sparkContext.master), {"paths.root": settings.paths.root}
    if master.startswith("local") or settings.paths.shared:
        return
    if settings.release.store:
        places["release.store"] = settings.release.store
    for name, place in places.items():
        if str(place).startswith("file://") or "://" not in str(place):
            raise UsageError(
                f"{name}={place} is a local path and the master is {master}: executors may not see it. "
                "Put it on a file system that all hosts share and say so with paths.shared=true"
            )
