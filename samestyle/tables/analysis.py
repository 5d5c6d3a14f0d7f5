"""What a channel serves, opened for a person who looks at it: in a notebook, on a laptop or a cluster."""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from pyspark.sql import DataFrame, Row, SparkSession, Window
from pyspark.sql import functions as F

from samestyle.errors import UsageError
from samestyle.index.exact import exact_search
from samestyle.release.manifest import Manifest, PlacedShard
from samestyle.release.publish import current_release, load_manifest
from samestyle.release.store import Store, open_store
from samestyle.report.sheets import neighbour_sheet, photo_sheet
from samestyle.runs import RunFolder
from samestyle.serving.shards import Hit
from samestyle.settings import Settings, conf_folder, to_yaml
from samestyle.tables.changes import latest_attempts
from samestyle.tables.neighbours import own_rows
from samestyle.tables.pairs import visit_items
from samestyle.tables.photos import Photo, images_of, load_photos
from samestyle.tables.policies import decode_limits, fetch_policy
from samestyle.tables.source import read_catalogue, read_clicks
from samestyle.tables.turnover import compared
from samestyle.tables.turnover import served as served_items
from samestyle.tables.warehouse import Warehouse, embeddings_by_item


@dataclass(frozen=True)
class Served:
    """One release and the tables that it was made from, at the versions that it was made from."""

    spark: SparkSession
    manifest: Manifest
    settings: Settings

    @property
    def store(self) -> Store:
        return open_store(self.settings.store_uri)

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

    def clicks(self) -> DataFrame:
        """The click log within its window. Raises UsageError where none is mapped."""
        clicks = read_clicks(self.spark, self.settings.clicks)
        if clicks is None:
            raise UsageError("the nights have no click log: set clicks.table or clicks.path")
        return clicks

    def pairs(self) -> DataFrame:
        """What `sample_pairs` made of the clicks; no rows before it has run."""
        return self.warehouse.pairs.read()

    def rows_of(self, ids: Sequence[str]) -> dict[str, Row]:
        """The served items of these ids."""
        items = self.items().where("content_key is not null")
        return {row["item_id"]: row for row in items.where(F.col("item_id").isin(list(ids))).collect()}

    def one_a_category(self, most: int) -> list[Row]:
        """An item with a photo of each of the first `most` categories, by a fixed draw."""
        shown = self.items().where("content_key is not null and image_uri is not null and category is not null")
        drawn = Window.partitionBy("category").orderBy(F.xxhash64("item_id"), "item_id")
        first = shown.withColumn("place", F.row_number().over(drawn)).where("place = 1").drop("place")
        return first.orderBy("category").limit(most).collect()

    def sharing_contents(self, contents: int, most: int) -> list[list[Row]]:
        """Items that share one title and photo, for a few contents: those that most items share, `most` of each."""
        served = self.items().where("content_key is not null")
        counted = served.groupBy("content_key").agg(F.count("*").alias("items")).where("items > 1")
        largest = counted.orderBy(F.desc("items"), "content_key").limit(contents)
        rows = served.join(F.broadcast(largest), "content_key").orderBy(F.desc("items"), "content_key", "item_id")
        return [list(group)[:most] for _, group in groupby(rows.collect(), key=lambda row: row["content_key"])]

    def visits(self, count: int, most: int) -> list[list[Row]]:
        """What shoppers clicked in a few visits, `most` items of each at most, by a fixed draw of visits."""
        grouped = visit_items(self.clicks()).groupBy("visit").agg(F.array_sort(F.collect_set("item_id")).alias("items"))
        several = grouped.where(F.size("items").between(4, 4 * most))
        drawn = [row["items"][:most] for row in several.orderBy(F.xxhash64("visit"), "visit").limit(count).collect()]
        known = self.rows_of([item_id for items in drawn for item_id in items])
        return [[known[item_id] for item_id in items if item_id in known] for items in drawn]

    def paired_items(self, count: int) -> list[list[Row]]:
        """A few pairs of `sample_pairs` as two rows, triggers above their offers, by a fixed draw.

        Raises UsageError where there is no pair yet.
        """
        drawn = self.pairs().orderBy(F.xxhash64("trigger_id", "offer_id"), "trigger_id").limit(count).collect()
        if not drawn:
            raise UsageError("there are no pairs yet: run ./spark-submit.sh sample_pairs")
        known = self.rows_of([row[end] for row in drawn for end in ("trigger_id", "offer_id")])
        both = [row for row in drawn if row["trigger_id"] in known and row["offer_id"] in known]
        return [[known[row[end]] for row in both] for end in ("trigger_id", "offer_id")]

    def parent(self) -> "Served":
        """The release that this one was made from. Raises UsageError where there is none."""
        if self.manifest.parent is None:
            raise UsageError(
                f"release {self.manifest.release_id} is the first one: run another night, such as "
                "./spark-submit.sh nightly demo.day=2"
            )
        return replace(self, manifest=load_manifest(self.store, self.manifest.parent))

    def changes(self, before: "Served") -> DataFrame:
        """item_id, `old` and `new` (what is told of the item in both, null where it is not served), and `kind`:
        came, went, content, facts, or same."""
        return compared(served_items(before.items(), "old"), served_items(self.items(), "new"))

    def changed_items(self, before: "Served", kind: str, count: int) -> list[list[Row]]:
        """A few items that have changed in this way, as they were and as they are, by a fixed draw."""
        drawn = self.changes(before).where(F.col("kind") == kind).orderBy(F.xxhash64("item_id"), "item_id")
        rows = drawn.limit(count).collect()
        return [[row[side] for row in rows if row[side] is not None] for side in ("old", "new")]

    def vectors_by(self, encoder_id: str) -> DataFrame:
        """The served items with the newest vectors that an encoder has made of them, such as a candidate's."""
        made = self.warehouse.embeddings_of(encoder_id)
        newest = latest_attempts(made).selectExpr("content_key", "done_embedded_at as served_at")
        return embeddings_by_item(self.items().drop("served_at").join(newest, "content_key"), made)

    def sample(self, most: int, encoder_id: str | None = None) -> list[Row]:
        """Items with title, photo and all three vectors, of the release's encoder or another one, by a fixed draw."""
        vectors = self.vectors() if encoder_id is None else self.vectors_by(encoder_id)
        complete = vectors.where("image_vector is not null and text_vector is not null and title is not null")
        return complete.orderBy(F.xxhash64("item_id"), "item_id").limit(most).collect()

    def found(self, hits: Sequence[Hit]) -> list[Row]:
        """What is known of the items that a search has found, in the search's order."""
        known = self.rows_of([hit.item_id for hit in hits])
        return [known[hit.item_id] for hit in hits if hit.item_id in known]

    def words(self) -> list[str]:
        """What a job of jobs/ is called with, to work with the settings of the night that made this release."""
        path = Path(str(self.settings.paths.root), "workshop", "settings.yaml")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(to_yaml(self.settings), encoding="utf-8")
        return ["--env", self.settings.env, "--settings", str(path)]

    def placed(self, module: str, view: str) -> list[PlacedShard]:
        """The shards of an index, for udfs.search.fetch_shard."""
        index = self.manifest.index(module, view)
        return [PlacedShard(0, shard, index.dim) for shard in index.shards]

    def sheet(
        self, rows: Sequence[Sequence[Row]], names: Sequence[str] = (), queries: bool = False, caption: str = "title"
    ) -> Figure:
        """Items as rows of photos, each with what one of its columns says; see sheets.photo_sheet."""
        photos = iter(self.photos([item for line in rows for item in line]))
        pixels = [[next(photos).pixels for _ in line] for line in rows]
        captions = [[item[caption] or f"no {caption}" for item in line] for line in rows]
        return photo_sheet(pixels, captions, names, queries=queries)

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
    root = Path(root).absolute()  # Spark may have been started in another folder
    place = store or root / "store"
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


def counted(rows: DataFrame, column: str, most: int = 30) -> dict[str, int]:
    """How many rows have each value of a column, the most frequent first."""
    counts = rows.groupBy(column).count().orderBy(F.desc("count"), column).limit(most)
    return {str(row[column]): row["count"] for row in counts.collect()}


def nearest_by(
    served: Served, encoder_ids: Sequence[str], queries: int, nearest: int, names: Sequence[str], sample: int = 400
) -> Figure:
    """A photo sheet: for each of a few items its nearest in a sample, encoder below encoder, by the fused vectors.

    Items that all encoders know, with title and photo, by a fixed draw; the first `queries` of them ask.
    """
    rows = served.sample(sample, encoder_ids[0])
    by_id = [{row["item_id"]: row["fused_vector"] for row in served.sample(sample, one)} for one in encoder_ids]
    known = [row for row in rows if all(row["item_id"] in found for found in by_id)]
    vectors = [np.array([found[row["item_id"]] for row in known], np.float32) for found in by_id]
    asked = np.repeat(np.arange(queries), len(encoder_ids))
    found = [exact_search(matrix, matrix[:queries], nearest + 1) for matrix in vectors]
    labels, scores = (np.stack(part, 1).reshape(len(asked), -1) for part in zip(*found, strict=True))
    photos = [photo.pixels for photo in served.photos(known)]
    return neighbour_sheet(asked, labels, scores, photos, [row["title"] for row in known], list(names) * queries)


def latest_record(root: str | Path, job: str, name: str) -> dict[str, Any]:
    """What the newest run of a job beside the nights has written. Raises UsageError where there is none."""
    for path in sorted(Path(root, "workshop").glob(f"{job}-*"), reverse=True):
        record = RunFolder(path).read(name)
        if record is not None:
            return record
    raise UsageError(f"no run of {job} below {root}/workshop has left {name}.json: run ./spark-submit.sh {job}")


def local_session() -> SparkSession:
    """The session that runs already (as on a cluster), or one on this machine with the settings of env demo.

    A notebook that lies in a checkout can import its rooms `udfs` and `jobs` afterwards; so can its workers.
    """
    add_checkout(conf_folder().parent)
    running = SparkSession.getActiveSession()
    if running is not None:
        return running
    os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    builder = SparkSession.builder.appName("samestyle analysis").config("spark.jars", delta_jars())
    for line in (conf_folder() / "spark" / "demo.conf").read_text(encoding="utf-8").splitlines():
        if line.strip() and not line.startswith("#"):
            builder = builder.config(*line.split(None, 1))
    session = builder.getOrCreate()
    session.sparkContext.setLogLevel("ERROR")
    return session


def add_checkout(folder: Path) -> None:
    """What spark-submit.sh sets for jobs."""
    if (folder / "udfs").is_dir() and str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
        os.environ.setdefault("SAMESTYLE_HOME", str(folder))
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))


def delta_jars() -> str:
    """Delta's jars, as set-up has fetched them, or as $SAMESTYLE_JARS names them."""
    fetched = conf_folder().parent / ".cache" / "jars"
    return os.environ.get("SAMESTYLE_JARS") or ",".join(map(str, sorted(fetched.glob("*.jar"))))
