"""Our own tables, in Delta or Parquet, with the few operations that the jobs need.

Delta: an append is one commit, an overwrite one version. Parquet: an append or a version is one folder that counts once
Spark's `_SUCCESS` is in it, so that what a killed run left behind is never read.
"""

import re
import uuid
from dataclasses import dataclass
from typing import Any

from delta.tables import DeltaTable
from pyspark.sql import DataFrame, DataFrameWriter, Row, SparkSession
from pyspark.sql import functions as F

from samestyle.errors import UsageError


def only_row(frame: DataFrame) -> Row:
    """The one row of a frame that has one, such as an aggregate."""
    row = frame.first()
    if row is None:
        raise ValueError("a frame that must have a row has none")
    return row


def list_files(spark: SparkSession, pattern: str) -> list[Any]:
    """Hadoop's FileStatus of all files that a glob names, on whatever file system it lies."""
    jvm: Any = spark._jvm
    path = jvm.org.apache.hadoop.fs.Path(pattern)
    system = path.getFileSystem(spark._jsparkSession.sessionState().newHadoopConf())
    return list(system.globStatus(path) or [])


def escape_glob(path: str) -> str:
    """A path as a glob that names it alone."""
    return re.sub(r"([\\*?\[\]{}])", r"\\\1", path)


class Persisted:
    """Frames that are computed once, until the block ends."""

    def __init__(self) -> None:
        self.frames: list[DataFrame] = []

    def add(self, frame: DataFrame) -> DataFrame:
        self.frames.append(frame.persist())
        return frame

    def __enter__(self) -> "Persisted":
        return self

    def __exit__(self, *error: object) -> None:
        # The last one first: Spark plans anew what is kept of a frame that goes.
        for frame in reversed(self.frames):
            frame.unpersist()


@dataclass(frozen=True)
class Table:
    """One table below `<paths.root>/tables`. `schema` is its DDL."""

    spark: SparkSession
    path: str
    schema: str
    format: str
    partition_by: tuple[str, ...] = ()
    # Delta's table properties, set when the table is made.
    properties: tuple[tuple[str, str], ...] = ()

    @property
    def exists(self) -> bool:
        if self.format == "delta":
            return DeltaTable.isDeltaTable(self.spark, self.path)
        return bool(self._committed("*"))

    def append(self, rows: DataFrame) -> None:
        """Add rows in one commit."""
        if self.format == "delta":
            self._writer(rows).mode("append").option("mergeSchema", "true").save(self.path)
        else:
            self._writer(rows).save(f"{self.path}/part-{uuid.uuid4().hex}")

    def replace(self, rows: DataFrame, column: str, value: str) -> None:
        """Add rows whose `column` has this value, in place of those that had it: a stage may run again."""
        if self.format == "delta":
            condition = f"{column} = '{value}'"
            existing = DeltaTable.isDeltaTable(self.spark, self.path)
            writer = self._writer(rows).mode("overwrite" if existing else "append")
            (writer.option("replaceWhere", condition) if existing else writer).save(self.path)
        else:
            self._writer(rows).mode("overwrite").save(f"{self.path}/{column}-{value}")

    def overwrite(self, rows: DataFrame, version: str) -> str:
        """Replace all rows; returns the version that `read` takes. `version` names it where the format does not."""
        if self.format == "parquet":
            self._writer(rows).mode("overwrite").save(f"{self.path}/version-{version}")
            return version
        # Attributes follow the settings, so that the schema may change from one night to the next.
        self._writer(rows).mode("overwrite").option("overwriteSchema", "true").save(self.path)
        return str(only_row(DeltaTable.forPath(self.spark, self.path).history(1))["version"])

    def read(self, version: str | None = None) -> DataFrame:
        """All committed rows (of one version); no rows where the table does not exist yet."""
        if self.format == "delta":
            return self._read_delta(version)
        folders = self._committed(f"version-{version}" if version else "*")
        if version and not folders:
            raise UsageError(f"version {version} of {self.path} is not there: was it cleaned away?")
        if version:  # a version says itself what it holds: attributes follow the settings
            return self.spark.read.parquet(*folders)
        return self.spark.read.schema(self.schema).parquet(*folders) if folders else self.no_rows()

    def _read_delta(self, version: str | None) -> DataFrame:
        if not DeltaTable.isDeltaTable(self.spark, self.path):
            return self.no_rows()
        reader = self.spark.read.format("delta")
        if version:
            return reader.option("versionAsOf", version).load(self.path)
        rows = reader.load(self.path)
        # A column that the project did not have when the table was made.
        later = [field for field in self.no_rows().schema if field.name not in rows.columns]
        return rows.withColumns({field.name: F.lit(None).cast(field.dataType) for field in later}) if later else rows

    def _writer(self, rows: DataFrame) -> DataFrameWriter:
        # Spark does not read several roots that are partitioned each for itself, as Parquet's commits would be.
        if self.format != "delta":
            return rows.write.format(self.format)
        return rows.write.format("delta").options(**dict(self.properties)).partitionBy(*self.partition_by)

    def no_rows(self) -> DataFrame:
        return self.spark.createDataFrame([], self.schema)

    def _committed(self, pattern: str) -> list[str]:
        found = list_files(self.spark, f"{escape_glob(self.path)}/{pattern}/_SUCCESS")
        return sorted(str(status.getPath().getParent()) for status in found)
