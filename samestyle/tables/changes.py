"""What differs: which contents must be attempted tonight, and in which state every catalogue row ends.

All of it is Spark SQL over committed tables; no Python function runs here.
"""

from dataclasses import dataclass
from datetime import datetime

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from samestyle.errors import LedgerError

STATES = ("fresh", "reused", "stale", "degraded", "rejected")
# What the embedding UDF and the rows that it makes need of a content.
CONTENT_COLUMNS = ("content_key", "title_hash", "image_key", "title", "image", "image_uri")


@dataclass(frozen=True)
class RefreshRules:
    """When a content that was attempted before is attempted again."""

    now: datetime
    backoff_hours: float
    refetch_days: int


def normalised_title(title: Column, max_chars: int) -> Column:
    """Control characters and runs of white space to one blank, trimmed, cut; empty becomes null.

    This is what the encoder sees and what is hashed, so that a changed blank embeds nothing anew.
    """
    text = F.trim(F.regexp_replace(title, r"[\p{Cntrl}\p{Z}\s]+", " "))
    text = F.trim(F.substring(text, 1, max_chars))
    return F.when(text != "", text)


def with_contents(rows: DataFrame, max_title_chars: int) -> DataFrame:
    """Catalogue rows with title_hash, image_key and content_key (null where there is nothing to embed).

    A content is (title, image). The image's key is the digest of its bytes, or of its URI and version.
    """
    uri = F.when(F.trim("image_uri") != "", F.trim("image_uri"))
    by_uri = F.sha2(F.concat_ws("\n", uri, "image_version"), 256)
    bytes_key = F.when(F.length("image") > 0, F.sha2("image", 256))
    parts = F.concat_ws("|", F.coalesce("title_hash", F.lit("")), F.coalesce("image_key", F.lit("")))
    return (
        rows.withColumn("title", normalised_title(F.col("title"), max_title_chars))
        .withColumn("image_uri", uri)
        .withColumn("title_hash", F.sha2("title", 256))
        .withColumn("image_key", F.coalesce(bytes_key, F.when(uri.isNotNull(), by_uri)))
        .withColumn("content_key", F.when(F.coalesce("title_hash", "image_key").isNotNull(), F.sha2(parts, 256)))
    )


def without_bytes(rows: DataFrame) -> DataFrame:
    """The same rows with no bytes in place of a photo's: small to keep, sort and join, and keyed all the same."""
    return rows.withColumn("image", F.when(F.length("image") > 0, F.lit(b"")))


def with_bytes(contents: DataFrame, rows: DataFrame) -> DataFrame:
    """`contents`, one row each, with the bytes of their photos from `rows` (with_contents)."""
    photos = rows.where("image is not null").select("content_key", "image")
    wanted = photos.join(contents.select("content_key"), "content_key", "left_semi")
    # All photos of a content are the same bytes: their digest is in its key.
    one = wanted.groupBy("content_key").agg(F.first("image").alias("image"))
    return contents.drop("image").join(one, "content_key", "left").select(*contents.columns)


def with_duplicates(rows: DataFrame) -> DataFrame:
    """Rows with `duplicate`: true for all but one row of an item_id. The newest wins, then the smallest digest."""
    digest = F.xxhash64(*[c for c in rows.columns if c not in ("item_id", "updated_at")])
    newest = Window.partitionBy("item_id").orderBy(F.col("updated_at").desc_nulls_last(), digest)
    return rows.withColumn("duplicate", F.row_number().over(newest) > 1)


def latest_attempts(embeddings: DataFrame) -> DataFrame:
    """One row a content: its newest attempt (`newest_*`), its newest finished one (`done_*`, null if none), and how
    many attempts have failed since one was good (`failures`).

    `unchanged` says only that a refetch found the same bytes: it is a good attempt, and no result.
    """
    fields = ["outcome", "reason", "detail", "transient", "embedded_at", "run_id", "image_digest"]
    attempt = F.struct(*fields)
    finished = ~F.col("transient") & (F.col("outcome") != "unchanged")
    good = F.col("outcome").isin("embedded", "unchanged")
    # Windows of one order are one sort: a quarter of what max_by of structs costs.
    so_far = Window.partitionBy("content_key").orderBy(F.desc("embedded_at"))
    whole = so_far.rowsBetween(Window.unboundedPreceding, Window.unboundedFollowing)
    since_good = F.count_if(good).over(so_far) == 0
    placed = embeddings.select(
        "content_key",
        attempt.alias("newest"),
        F.row_number().over(so_far).alias("place"),
        F.first(F.when(finished, attempt), ignorenulls=True).over(whole).alias("done"),
        since_good.alias("since_good"),
    )
    newest = placed.withColumn("failures", F.count_if("since_good").over(Window.partitionBy("content_key")))
    columns = [F.col(f"{row}.{f}").alias(f"{row}_{f}") for row in ("newest", "done") for f in fields]
    return newest.where("place = 1").select("content_key", *columns, F.col("failures").cast("int").alias("failures"))


def contents_to_attempt(rows: DataFrame, latest: DataFrame, rules: RefreshRules) -> DataFrame:
    """The contents of `rows` that need an attempt, one row each, with `known_digest` of the image that serves.

    Those never attempted; those whose newest attempt failed for a transient reason, after back-off; and URIs without a
    version, whose picture may change unseen: after `refetch_days`, or after back-off where it is broken. The back-off
    doubles with each failure in a row, up to `refetch_days`: a catalogue's dead links are not fetched every night.
    """
    age_hours = (F.lit(rules.now).cast("double") - F.col("newest_embedded_at").cast("double")) / 3600
    doubled = F.pow(F.lit(2.0), F.least(F.col("failures") - 1, F.lit(30))) * rules.backoff_hours
    rested = age_hours >= F.least(doubled, F.lit(max(rules.refetch_days * 24.0, rules.backoff_hours)))
    unversioned = F.col("image_uri").isNotNull() & F.col("image_version").isNull()
    broken = F.col("newest_outcome").isin("rejected", "degraded")
    wanted = (
        F.col("newest_outcome").isNull()
        | (F.col("newest_transient") & rested)
        | (unversioned & broken & rested)
        | (unversioned & (age_hours >= rules.refetch_days * 24))
    )
    # The digest counts as known only where the picture was good: a broken one that is whole again must be embedded.
    known = F.when(F.col("done_outcome") == "embedded", F.col("done_image_digest"))
    attempts = distinct_contents(rows).join(latest, "content_key", "left").where(wanted)
    return attempts.select(*CONTENT_COLUMNS, known.alias("known_digest"))


def distinct_contents(rows: DataFrame) -> DataFrame:
    """The contents of `rows` that an item may show, one row each: CONTENT_COLUMNS and image_version."""
    content = rows.where("content_key is not null and item_id != '' and not duplicate")
    # Any row of a content will do, but always the same one: URIs may differ only where an image version is equal.
    fields = F.struct(*CONTENT_COLUMNS[1:], "image_version")
    return (
        content.groupBy("content_key")
        .agg(F.min_by(fields, F.struct("item_id")).alias("of"))
        .select("content_key", "of.*")
    )


def resolve_items(
    rows: DataFrame,
    latest: DataFrame,
    baseline: DataFrame,
    run_id: str,
    started_at: datetime,
    same_encoder: bool = True,
    denied: DataFrame | None = None,
) -> DataFrame:
    """The day's items: every catalogue row with its state, its reason and the content that serves it.

    `latest` is latest_attempts, `baseline` the items that the parent release was made from. Unless that was done by the
    `same_encoder`, what serves there cannot serve here.
    """
    former = baseline.where(F.col("content_key").isNotNull() & F.lit(same_encoder)).select(
        "item_id",
        F.col("content_key").alias("former_key"),
        F.col("served_at").alias("former_served_at"),
    )
    seen = baseline.groupBy("item_id").agg(F.min("first_seen_at").alias("seen_at"))
    joined = rows.join(latest, "content_key", "left").join(former, "item_id", "left").join(seen, "item_id", "left")
    if denied is not None:
        joined = joined.join(F.broadcast(denied.select("item_id", F.lit(True).alias("denied"))), "item_id", "left")
    else:
        joined = joined.withColumn("denied", F.lit(False))
    return with_state(joined, run_id).select(
        "item_id",
        F.col("content_key").alias("wanted_key"),
        F.col("serving.content_key").alias("content_key"),
        F.col("serving.served_at").alias("served_at"),
        "state",
        "reason",
        "detail",
        "supplier_id",
        "category",
        "attributes",
        "title",
        "image_uri",
        "style_group",
        F.coalesce("seen_at", F.lit(started_at)).alias("first_seen_at"),
        F.lit(run_id).alias("run_id"),
    )


def with_state(joined: DataFrame, run_id: str) -> DataFrame:
    """Adds state, reason, detail and serving (struct of content_key and served_at; null where rejected)."""
    refusal = (
        F.when(F.col("item_id").isNull() | (F.col("item_id") == ""), "no_item_id")
        .when(F.col("duplicate"), "duplicate_id")
        .when(F.col("denied"), "denied")
        .when(F.col("content_key").isNull(), "nothing_to_embed")
    )
    has_vectors = F.col("done_outcome").isin("embedded", "degraded")
    stale = F.col("newest_transient") & (has_vectors | F.col("former_key").isNotNull())
    deciding = F.coalesce("done_outcome", "newest_outcome")
    state = (
        F.when(refusal.isNotNull(), "rejected")
        .when(stale, "stale")
        .when(deciding == "rejected", "rejected")
        .when(deciding == "degraded", "degraded")
        .when(F.col("done_run_id") == run_id, "fresh")
        .when(deciding == "embedded", "reused")
    )
    own = F.struct(F.col("content_key"), F.col("done_embedded_at").alias("served_at"))
    former = F.struct(F.col("former_key").alias("content_key"), F.col("former_served_at").alias("served_at"))
    serving = F.when(F.col("state") == "rejected", None).when(has_vectors, own).otherwise(former)
    newest = F.col("state") == "stale"
    return (
        joined.withColumn("refusal", refusal)
        .withColumn("state", state)
        .withColumn("reason", F.coalesce("refusal", F.when(newest, F.col("newest_reason")), deciding_field("reason")))
        .withColumn("detail", F.when(F.col("refusal").isNull(), deciding_field("detail")))
        .withColumn("serving", serving)
    )


def deciding_field(name: str) -> Column:
    """A field of the attempt that decides the state: the newest finished one, or the newest where none finished."""
    return F.when(F.col("done_outcome").isNotNull(), F.col(f"done_{name}")).otherwise(F.col(f"newest_{name}"))


def count_states(items: DataFrame) -> dict[str, int]:
    """Rows a state, and `read`: all of them, those in no state as well, so that the sums can fail."""
    counts = {row["state"]: row["count"] for row in items.groupBy("state").count().collect()}
    return {"read": sum(counts.values())} | {state: counts.get(state, 0) for state in STATES}


def count_deleted(items: DataFrame, baseline: DataFrame) -> int:
    """Items of the baseline that were served and that today's catalogue no longer has."""
    served = baseline.where("content_key is not null").select("item_id")
    return served.join(items.select("item_id"), "item_id", "left_anti").count()


def check_sums(counts: dict[str, int]) -> None:
    """Raises LedgerError unless every catalogue row is in exactly one state."""
    total = sum(counts[state] for state in STATES)
    if counts["read"] != total:
        parts = " + ".join(f"{counts[state]} {state}" for state in STATES)
        raise LedgerError(
            f"{counts['read']} catalogue rows were read, but {parts} is {total}: the sums do not add up; "
            "nothing is published, please report this with the run's folder"
        )


def contents_embedded(embeddings: DataFrame, run_id: str) -> int:
    """Contents that the encoder saw in this run."""
    own = (F.col("run_id") == run_id) & F.col("outcome").isin("embedded", "degraded")
    return embeddings.where(own).count()
