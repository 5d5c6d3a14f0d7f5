"""What is known of the items that clicks and pairs name: from the latest release, else the catalogue, else nothing."""

from dataclasses import dataclass

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from samestyle.settings import Settings
from samestyle.tables.changes import with_contents, with_duplicates
from samestyle.tables.io import only_row
from samestyle.tables.schemas import CATALOGUE_COLUMNS
from samestyle.tables.source import map_columns, missing, our_columns, read_raw, without_uri_as_image
from samestyle.tables.workshop import Workshop

FACTS = ("item_id", "content_key", "title", "image_uri", "supplier_id", "category", "style_group")


@dataclass(frozen=True)
class Facts:
    """rows: FACTS, one row an item, null where unknown; origin: where they come from, for people to read."""

    rows: DataFrame
    origin: str


def item_facts(workshop: Workshop) -> Facts | None:
    """The served items of the latest release; before the first one the catalogue; None where there is none either."""
    if workshop.parent is not None:
        items = workshop.warehouse.items().read(workshop.parent.items_version)
        return Facts(items.where("content_key is not null").select(*FACTS), f"release {workshop.parent.release_id}")
    if workshop.settings.is_demo_catalogue:
        return None
    rows = catalogue_rows(workshop.spark, workshop.settings)
    return Facts(rows.select(*FACTS), "the catalogue, as nothing is released yet")


def catalogue_rows(spark: SparkSession, settings: Settings) -> DataFrame:
    """The catalogue as it is now, one row an item; only the column of ids must be there. Raises as read_raw does."""
    raw, _ = read_raw(spark, settings.catalogue)
    mapping = map_columns(raw, settings.catalogue.columns.model_dump(), "catalogue")
    if "item_id" not in mapping:
        raise missing("catalogue.columns.item_id", "item_id", raw.columns)
    rows = raw.select(*our_columns(without_uri_as_image(mapping, raw), CATALOGUE_COLUMNS))
    distinct = with_duplicates(with_contents(rows, settings.embed.max_title_chars))
    return distinct.where("item_id is not null and not duplicate")


def newest_vectors(contents: DataFrame, embeddings: DataFrame) -> DataFrame:
    """content_key, text_vector, fused_vector of one encoder, for those of `contents` (content_key) that have them.

    They are the newest ones and not those that the release serves: it may have been made by another encoder.
    """
    wanted = contents.select("content_key").distinct()
    usable = embeddings.where("outcome in ('embedded', 'degraded')").join(wanted, "content_key", "left_semi")
    newest = F.max_by(F.struct("text_vector", "fused_vector"), "embedded_at").alias("newest")
    return usable.groupBy("content_key").agg(newest).select("content_key", "newest.*")


def columns_with_values(rows: DataFrame) -> frozenset[str]:
    """The columns in which not every row is null; all of them where there are no rows, as nothing speaks against it."""
    counts = only_row(
        rows.agg(F.count("*").alias("rows"), *[F.count(name).alias(f"in {name}") for name in rows.columns])
    )
    return frozenset(name for name in rows.columns if counts[f"in {name}"] or not counts["rows"])


def facts_of(visits: DataFrame, facts: Facts | None) -> DataFrame:
    """FACTS of the items that were clicked; all null where nothing is known of any."""
    clicked = visits.select("item_id").distinct()
    if facts is not None:
        return facts.rows.join(clicked, "item_id", "left_semi")
    return clicked.select("item_id", *[F.lit(None).cast("string").alias(name) for name in FACTS[1:]])
