"""What a channel serves, opened for a person who looks at it: in a notebook, on a laptop or a cluster."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pyspark.sql import DataFrame, Row, SparkSession
from pyspark.sql import functions as F

from samestyle.errors import UsageError
from samestyle.release.manifest import Manifest
from samestyle.release.publish import current_release
from samestyle.release.store import open_store
from samestyle.settings import Settings, conf_folder
from samestyle.tables.neighbours import own_rows
from samestyle.tables.photos import Photo, images_of, load_photos
from samestyle.tables.policies import decode_limits, fetch_policy
from samestyle.tables.source import read_catalogue
from samestyle.tables.warehouse import Warehouse, embeddings_by_item


@dataclass(frozen=True)
class Served:
    """One release and the tables that it was made from, at the versions that it was made from."""

    spark: SparkSession
    manifest: Manifest
    settings: Settings

    @property
    def warehouse(self) -> Warehouse:
        return Warehouse.of(self.spark, self.settings)

    def items(self) -> DataFrame:
        """The day's catalogue: one row an item, with its state and the content that serves it."""
        return self.warehouse.items().read(self.manifest.items_version)

    def vectors(self) -> DataFrame:
        """The served items with image_vector, text_vector and fused_vector, null where it has no such view."""
        return embeddings_by_item(self.items(), self.warehouse.embeddings_of(self.manifest.encoder.encoder_id))

    def neighbours(self, module: str) -> DataFrame:
        """What is shown of one module: item_id, band, rank, neighbour_id, score."""
        rows = self.warehouse.neighbours.read().where(own_rows(module, self.manifest.release_id))
        return rows.where(F.col("rank") <= self.settings.neighbours.k)

    def photos(self, rows: Sequence[Row], size: int = 112) -> list[Photo]:
        """One photo a row, decoded on the driver: for tens of rows, not for thousands. Rows: item_id, image_uri."""
        catalogue, images = self.settings.catalogue, None
        if all(row["image_uri"] is None for row in rows):
            images = images_of(read_catalogue(self.spark, catalogue).rows, [row["item_id"] for row in rows])
        return load_photos(rows, fetch_policy(self.settings), decode_limits(self.settings), images, size)


def open_served(
    spark: SparkSession, root: str | Path, channel: str = "current", store: str | Path | None = None
) -> Served:
    """What `channel` names. root: paths.root; store: release.store, where releases do not lie below it.

    Raises UsageError where nothing is published there.
    """
    place = store or f"{root}/store"
    found = current_release(open_store(place), channel)
    if found is None:
        raise UsageError(
            f"channel {channel} of {place} names no release: run ./spark-submit.sh nightly paths.root={root}, "
            "or name the store, where release.store is set"
        )
    settings = Settings.model_validate(found[1].settings)
    # Both may have been moved since.
    paths = settings.paths.model_copy(update={"root": str(root)})
    release = settings.release.model_copy(update={"store": store and str(store)})
    return Served(spark, found[1], settings.model_copy(update={"paths": paths, "release": release}))


def local_session() -> SparkSession:
    """The session that runs already (as on a cluster), or one on this machine with the settings of env demo."""
    running = SparkSession.getActiveSession()
    if running is not None:
        return running
    os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
    builder = SparkSession.builder.appName("samestyle analysis").config("spark.jars", delta_jars())
    for line in (conf_folder() / "spark" / "demo.conf").read_text(encoding="utf-8").splitlines():
        if line.strip() and not line.startswith("#"):
            builder = builder.config(*line.split(None, 1))
    session = builder.getOrCreate()
    session.sparkContext.setLogLevel("ERROR")
    return session


def delta_jars() -> str:
    """Delta's jars, as set-up has fetched them, or as $SAMESTYLE_JARS names them."""
    fetched = conf_folder().parent / ".cache" / "jars"
    return os.environ.get("SAMESTYLE_JARS") or ",".join(map(str, sorted(fetched.glob("*.jar"))))
