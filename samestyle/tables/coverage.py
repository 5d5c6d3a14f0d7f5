"""What another encoder has yet to embed before it can take over, and how far it is: Spark SQL over committed tables."""

from datetime import UTC, datetime

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from samestyle.encoder.promotion import Coverage
from samestyle.release.manifest import Manifest
from samestyle.tables.changes import CONTENT_COLUMNS, distinct_contents
from samestyle.tables.io import only_row


def unfinished(rows: DataFrame, latest: DataFrame) -> DataFrame:
    """The contents of `rows` that have no finished row, for embed_waves. latest: latest_attempts of the encoder.

    Without back-off, unlike a night's: whoever starts the job again wants what failed for a passing reason tried again.
    """
    finished = latest.where("done_outcome is not null")
    rest = distinct_contents(rows).join(finished, "content_key", "left_anti")
    return rest.select(*CONTENT_COLUMNS, F.lit(None).cast("string").alias("known_digest"))


def measure_coverage(
    rows: DataFrame, latest: DataFrame, baseline: DataFrame, parent: Manifest | None, source_version: str, run_id: str
) -> Coverage:
    """How much of the parent release the encoder has finished; the counts are explained at Coverage.

    By item, because that is what must not be lost: where the catalogue has changed the photo of an item that is served,
    it is the new content that has to be there. baseline: the items that the parent was made from.
    """
    served = baseline.where("content_key is not null").select("item_id", "content_key")
    today = rows.where("content_key is not null and not duplicate").select("item_id", "content_key")
    wanted = today.join(served, "item_id", "left_semi").select("content_key").distinct()
    counted = only_row(
        wanted.join(latest, "content_key", "left").agg(
            F.count("*").alias("wanted"),
            F.count("done_outcome").alias("finished"),
            F.count_if(F.col("done_outcome") == "rejected").alias("rejected"),
        )
    )
    gone = served.select("content_key").distinct().join(today, "content_key", "left_anti").count()
    return Coverage(
        release_id=parent.release_id if parent else None,
        items_version=parent.items_version if parent else None,
        source_version=source_version,
        gone=gone,
        run_id=run_id,
        measured_at=datetime.now(UTC).isoformat(timespec="seconds"),
        **counted.asDict(),
    )
