"""Read the catalogue and the click log, whatever their columns are called, with the version pinned for the run."""

import difflib
import hashlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import unquote

from pyspark.errors import PySparkException
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import BinaryType, StringType

from samestyle.errors import InputError, UsageError
from samestyle.settings import Catalogue, Clicks
from samestyle.tables.io import escape_glob, list_files, only_row
from samestyle.tables.schemas import CATALOGUE_COLUMNS, CLICK_COLUMNS
from samestyle.tables.versions import make_valid_utf8, try_cast

SAMPLE_OF = 1_000_000  # the finest share that a sample can have is one of these
FILES = "files-"  # what the version of a source begins with that has none of its own


@dataclass(frozen=True)
class Source:
    """The rows of an input, under our column names, and what pins them."""

    rows: DataFrame
    name: str
    version: str
    mapped: frozenset[str]


def read_catalogue(spark: SparkSession, catalogue: Catalogue) -> Source:
    """The catalogue under our names: CATALOGUE_COLUMNS (null where not mapped) and `attributes`, a struct.

    Raises UsageError for a missing column, InputError where the source cannot be read.
    """
    raw, version = read_raw(spark, catalogue)
    mapping = map_columns(raw, catalogue.columns.model_dump(), "catalogue")
    if "item_id" not in mapping:
        raise missing("catalogue.columns.item_id", "item_id", raw.columns)
    if not mapping.keys() & {"title", "image", "image_uri"}:
        raise missing("catalogue.columns.title (or image, image_uri)", "title, image, image_uri", raw.columns)
    mapping = without_uri_as_image(mapping, raw)
    for attribute in catalogue.attributes:
        if attribute not in raw.columns:
            raise missing("catalogue.attributes", attribute, raw.columns)
    # A struct needs a field: Parquet has no type for an empty one.
    fields = [attribute_column(raw, name) for name in catalogue.attributes] or [
        F.lit(None).cast("string").alias("none")
    ]
    rows = raw.select(*our_columns(mapping, CATALOGUE_COLUMNS), F.struct(*fields).alias("attributes"))
    if catalogue.sample < 1:
        rows = rows.where(F.pmod(F.xxhash64("item_id"), F.lit(SAMPLE_OF)) < round(catalogue.sample * SAMPLE_OF))
    return Source(rows, catalogue.table or str(catalogue.path), version, frozenset(mapping))


def read_clicks(spark: SparkSession, clicks: Clicks) -> DataFrame | None:
    """The clicks within the window, under our names; None where no log is given."""
    if clicks.table is None and clicks.path is None:
        return None
    raw, _ = read_raw(spark, clicks)
    mapping = map_columns(raw, clicks.columns.model_dump(), "clicks")
    if "item_id" not in mapping:
        raise missing("clicks.columns.item_id", "item_id", raw.columns)
    rows = raw.select(*our_columns(mapping, CLICK_COLUMNS))
    if "clicked_at" not in mapping:
        return rows
    newest = rows.agg(F.max("clicked_at").alias("newest"))
    age = F.expr(f"newest - interval {clicks.window_days} days")
    return rows.crossJoin(F.broadcast(newest)).where(F.col("clicked_at") >= age).drop("newest")


def pin_version(spark: SparkSession, source: Catalogue) -> str:
    """What pins the source as it is now."""
    return read_raw(spark, source)[1]


@contextmanager
def unchanging(spark: SparkSession, catalogue: Catalogue, version: str) -> Iterator[None]:
    """Wraps whatever reads the source that was at `version`, to the last row.

    Files have no versions: those that somebody overwrites meanwhile would be read half before and half after.
    Raises InputError where that happened.
    """
    try:
        yield
    except PySparkException:  # that a file is gone, or shorter than it was, follows from the same cause
        check_unchanged(spark, catalogue, version)
        raise
    check_unchanged(spark, catalogue, version)


def check_unchanged(spark: SparkSession, catalogue: Catalogue, version: str) -> None:
    if not version.startswith(FILES):
        return
    now = pin_version(spark, catalogue)
    if now != version:
        raise InputError(
            f"the catalogue {catalogue.table or catalogue.path} was overwritten while it was read: it was at {version} "
            f"and is at {now} now; run again, and write it elsewhere first, to move it into place, or keep it in Delta"
        )


def read_raw(spark: SparkSession, source: Catalogue | Clicks) -> tuple[DataFrame, str]:
    """The source as it is, at a pinned version, and that version."""
    name = source.table or f"{source.format} {source.path}"
    try:
        if source.table:
            return pin_table(spark, source.table)
        return pin_path(spark, str(source.path), source.format)
    except PySparkException as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"cannot read {name}: {reason}; check its name, format and permissions") from error


def pin_table(spark: SparkSession, table: str) -> tuple[DataFrame, str]:
    """A table of Spark's catalogue; Delta tables are pinned by version, others by their files."""
    if is_delta(spark, table):
        version = only_row(spark.sql(f"describe history {table} limit 1"))["version"]
        return spark.sql(f"select * from {table} version as of {version}"), f"delta-{version}"
    rows = spark.table(table)
    return rows, files_version(rows)


def is_delta(spark: SparkSession, table: str) -> bool:
    provider = [
        r["data_type"] for r in spark.sql(f"describe extended {table}").collect() if r["col_name"] == "Provider"
    ]
    return bool(provider) and provider[0].lower() == "delta"


def pin_path(spark: SparkSession, path: str, kind: str) -> tuple[DataFrame, str]:
    """A folder or file. CSV has a header line; its columns are read as text, so that ids keep their zeros."""
    reader = spark.read.format(kind)
    if kind == "delta":
        version = only_row(spark.sql(f"describe history delta.`{path}` limit 1"))["version"]
        return reader.option("versionAsOf", version).load(path), f"delta-{version}"
    if kind == "csv":
        reader = reader.options(header=True, multiLine=True, escape='"')
    rows = reader.load(path)
    return rows, files_version(rows)


def files_version(rows: DataFrame) -> str:
    """Digest of the names, sizes and times of a source's files: Parquet, JSON and CSV have no version of their own."""
    described = []
    for file in sorted(rows.inputFiles()):
        # Names come as URIs, in which a blank is %20.
        for status in list_files(rows.sparkSession, escape_glob(unquote(file))):
            described.append(f"{file} {status.getLen()} {status.getModificationTime()}")
    return FILES + hashlib.sha256("\n".join(described).encode()).hexdigest()[:16]


def map_columns(raw: DataFrame, wanted: dict[str, str | None], section: str) -> dict[str, str]:
    """Our column -> the source's, for all that are there. Raises UsageError where a named one is missing."""
    mapping = {}
    for ours, theirs in wanted.items():
        if theirs is not None and theirs not in raw.columns:
            raise missing(f"{section}.columns.{ours}", theirs, raw.columns)
        if theirs is not None or ours in raw.columns:
            mapping[ours] = theirs or ours
    return mapping


def without_uri_as_image(mapping: dict[str, str], raw: DataFrame) -> dict[str, str]:
    """The mapping, less an `image` that image_uri names as well. Raises UsageError where `image` is not binary."""
    name = mapping.get("image")
    if name is None or isinstance(raw.schema[name].dataType, BinaryType):
        return mapping
    if mapping.get("image_uri") == name:
        return {ours: theirs for ours, theirs in mapping.items() if ours != "image"}
    # A cast would take the letters of an address for the bytes of a photo, and every photo for a broken one.
    raise UsageError(
        f"column {name} is {raw.schema[name].dataType.simpleString()} and catalogue.columns.image has to be binary: "
        f"if it says where the photos lie, set catalogue.columns.image_uri={name}"
    )


def our_columns(mapping: dict[str, str], types: dict[str, str]) -> list[Column]:
    """One column for each of `types`: cast where mapped (null where a value does not fit), null where not."""
    return [
        # Spark 4 is ANSI: a plain cast of one bad value would end the job.
        (as_kind(F.col(f"`{mapping[name]}`"), kind) if name in mapping else F.lit(None).cast(kind)).alias(name)
        for name, kind in types.items()
    ]


def attribute_column(raw: DataFrame, name: str) -> Column:
    column = F.col(f"`{name}`")
    is_text = isinstance(raw.schema[name].dataType, StringType)
    return as_kind(column, "string").alias(name) if is_text else column


def as_kind(column: Column, kind: str) -> Column:
    """Null where a value does not fit. Seconds since 1970 are a time in text as well: CSV knows no numbers."""
    if kind == "string":
        # Parquet and Spark take any bytes for text, and Arrow, which every Python stage reads, takes only UTF-8.
        return make_valid_utf8(try_cast(column, kind))
    if kind != "timestamp":
        return try_cast(column, kind)
    seconds = try_cast(try_cast(try_cast(column, "string"), "double"), "timestamp")
    return F.coalesce(try_cast(column, "timestamp"), seconds)


def missing(setting: str, wanted: str, columns: Iterable[str]) -> UsageError:
    columns = list(columns)
    near = difflib.get_close_matches(wanted, columns, n=3, cutoff=0.4)
    hint = f"did you mean {' or '.join(near)}?" if near else f"the columns are {', '.join(columns)}"
    return UsageError(f"column {wanted} is not in the source ({setting}): {hint}")
