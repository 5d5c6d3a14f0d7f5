"""Our tables by name, below `<paths.root>/tables`."""

from dataclasses import dataclass

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from samestyle.settings import Settings
from samestyle.tables import schemas
from samestyle.tables.io import Table, escape_glob, list_files

# Delta refuses to read versions older than a week, unless the table says otherwise, and a release reads its own for as
# long as it is kept. maintenance.py knows how long that is, and removes what is older.
KEEP_VERSIONS = (
    ("delta.deletedFileRetentionDuration", "interval 3650 days"),
    ("delta.logRetentionDuration", "interval 3650 days"),
)


class LatestTable(Table):
    """A table that each run replaces whole: unless a version is named, the latest one is read."""

    def read(self, version: str | None = None) -> DataFrame:
        return super().read(version or (self.latest() if self.format == "parquet" else None))

    def latest(self) -> str | None:
        """The newest complete version of Parquet: they are named by runs, and these by the time."""
        found = list_files(self.spark, f"{escape_glob(self.path)}/version-*/_SUCCESS")
        versions = [status.getPath().getParent().getName().removeprefix("version-") for status in found]
        return max(versions, default=None)


@dataclass(frozen=True)
class Warehouse:
    """Opens nothing by itself: a table that no run has written yet reads as no rows."""

    spark: SparkSession
    root: str
    format: str

    @classmethod
    def of(cls, spark: SparkSession, settings: Settings) -> "Warehouse":
        return cls(spark, str(settings.paths.root), settings.tables.format)

    def table(self, name: str, schema: str, partition_by: tuple[str, ...] = ()) -> Table:
        return Table(self.spark, f"{self.root}/tables/{name}", schema, self.format, partition_by)

    @property
    def embeddings(self) -> Table:
        return self.table("embeddings", schemas.EMBEDDINGS, ("encoder_id",))

    def items(self) -> Table:
        """Read it at a version: its attributes follow the settings of the night that wrote it."""
        schema = schemas.items("struct<none: string>")
        return Table(self.spark, f"{self.root}/tables/items", schema, self.format, properties=KEEP_VERSIONS)

    @property
    def pairs(self) -> LatestTable:
        return LatestTable(self.spark, f"{self.root}/tables/pairs", schemas.PAIRS, self.format)

    @property
    def neighbours(self) -> Table:
        return self.table("neighbours", schemas.NEIGHBOURS)

    @property
    def evaluations(self) -> Table:
        return self.table("evaluations", schemas.EVALUATIONS)

    @property
    def runs(self) -> Table:
        return self.table("runs", schemas.RUNS)

    def embeddings_of(self, encoder_id: str) -> DataFrame:
        return self.embeddings.read().where(F.col("encoder_id") == encoder_id)


def embeddings_by_item(items: DataFrame, embeddings: DataFrame) -> DataFrame:
    """What an analyst opens: item_id with the three vectors that serve it, and what the item is."""
    vectors = embeddings.select(
        "encoder_id",
        "content_key",
        F.col("embedded_at").alias("served_at"),
        "image_vector",
        "text_vector",
        "fused_vector",
    )
    return items.join(vectors, ["content_key", "served_at"])


def rejects(items: DataFrame) -> DataFrame:
    """The catalogue rows that nothing serves, and why."""
    return items.where("state = 'rejected'").select("item_id", "reason", "detail", "title", "image_uri", "supplier_id")
