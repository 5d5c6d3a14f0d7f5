"""What an encoder is measured on, from the settings: products with a true style, or labelled pairs.

A set's rows are products: what the embedding needs of them, and
    slice string            the top level of the category
    in_pool boolean         whether queries may find it
    labels array<string>    what makes it a right answer
    wanted array<string>    the labels that its query wants; null where it is no query
    own string              the label of this very product, null where copies are left out anyway
"""

from collections.abc import Iterator
from dataclasses import dataclass

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from samestyle.errors import UsageError
from samestyle.evaluation.truth import ANNOTATED, BETWEEN, WITHIN
from samestyle.progress import say
from samestyle.settings import Catalogue, Evaluation, Settings
from samestyle.tables.changes import CONTENT_COLUMNS, with_contents, with_duplicates
from samestyle.tables.io import only_row
from samestyle.tables.schemas import CATALOGUE_COLUMNS
from samestyle.tables.source import missing, our_columns, read_catalogue, read_raw
from samestyle.tables.versions import try_cast
from samestyle.tables.warehouse import Warehouse

PRODUCT = ("item_id", *CONTENT_COLUMNS, "image_version", "supplier_id", "category", "duplicate")
TEST = "test"
# The two sides of the public pair files, and what their columns are called here.
PUBLIC_SIDES = ("trigger", "recall")
PUBLIC_CATEGORY = ("cate_lv1_name", "cate_name")


@dataclass(frozen=True)
class EvaluationSet:
    """rows: see above; copies: truth.WITHIN, BETWEEN or ANNOTATED; catalogue: where relative photo addresses start."""

    name: str
    about: str
    rows: DataFrame
    copies: tuple[str, ...]
    catalogue: Catalogue


def evaluation_sets(spark: SparkSession, settings: Settings) -> list[EvaluationSet]:
    """All that the settings give. Raises UsageError where they give none, and where one has no right answer at all."""
    sets = list(given_sets(spark, settings))
    if not sets:
        raise UsageError(
            "there is nothing to measure an encoder on: name a column of true styles with "
            "catalogue.columns.style_group=COLUMN, or labelled pairs with evaluation.pairs.path=FILE"
        )
    for one in sets:
        if one.rows.where("wanted is not null").isEmpty():
            raise UsageError(
                f"no query of {one.about} has a right answer in its pool: every style has one product there, or no "
                "pair has label 1; check the column, the splits and the labels"
            )
    return sets


def given_sets(spark: SparkSession, settings: Settings) -> Iterator[EvaluationSet]:
    if settings.evaluation.pairs.path:
        yield pairs_set(spark, settings)
    columns = read_raw(spark, settings.catalogue)[0].columns
    if settings.catalogue.columns.style_group or "style_group" in columns:
        yield style_set(spark, settings, columns)
    elif settings.evaluation.split_column:
        raise missing("catalogue.columns.style_group, which splits need", "style_group", columns)


def style_set(spark: SparkSession, settings: Settings, columns: list[str]) -> EvaluationSet:
    """Every product queries the rest; with splits, those of one split query those of the other."""
    wanted, catalogue = settings.evaluation, settings.catalogue
    check_splits(wanted, columns)
    if wanted.split_column:
        catalogue = catalogue.model_copy(update={"attributes": (wanted.split_column,)})
    source = read_catalogue(spark, catalogue)
    rows = products(source.rows, settings).where("content_key is not null")
    split = F.col(f"attributes.`{wanted.split_column}`").cast("string") if wanted.split_column else None
    rows = rows.withColumn("in_pool", in_split(split, wanted.pool_split))
    rows = rows.withColumn("asks", in_split(split, wanted.query_split) & F.col("style_group").isNotNull())
    if wanted.unseen:
        rows = rows.join(taught_styles(spark, settings, rows), "style_group", "left")
        rows = rows.withColumn("asks", F.col("asks") & F.col("taught").isNull()).drop("taught")
    if split is not None:
        check_split_values(rows.withColumn("split", split), wanted)
    apart = wanted.query_split != wanted.pool_split
    rows = with_style_truth(rows, apart).select(*PRODUCT, *truth_columns())
    about = f"styles of {source.name}" + (
        f", {wanted.split_column} {wanted.query_split or 'any'} -> {wanted.pool_split or 'any'}"
        if split is not None
        else ""
    )
    about += ", asked by styles that no training pair has shown" if wanted.unseen else ""
    return EvaluationSet("style", about, rows, BETWEEN if apart else WITHIN, settings.catalogue)


def with_style_truth(rows: DataFrame, apart: bool) -> DataFrame:
    """labels, wanted and own. apart: a query is not itself in the pool. One-product styles have no right answer."""
    pool = rows.where("in_pool and style_group is not null").groupBy("style_group").agg(F.count("*").alias("in_style"))
    itself = F.lit(0) if apart else F.col("in_pool").cast("int")
    labels = F.when(F.col("style_group").isNotNull(), F.array("style_group")).otherwise(empty())
    answered = F.col("asks") & (F.coalesce("in_style", F.lit(0)) > itself)
    return (
        rows.join(pool, "style_group", "left")
        .withColumn("labels", labels)
        .withColumn("wanted", F.when(answered, labels))
        .withColumn("own", F.lit(None).cast("string"))
    )


def taught_styles(spark: SparkSession, settings: Settings, rows: DataFrame) -> DataFrame:
    """style_group, taught (true): the styles of which a pair for training or validation has shown a product."""
    pairs = Warehouse.of(spark, settings).pairs.read().where("split != 'test'")
    ids = pairs.select(F.explode(F.array("trigger_id", "offer_id")).alias("item_id")).distinct()
    styles = rows.where("style_group is not null").join(ids, "item_id").select("style_group").distinct()
    return styles.withColumn("taught", F.lit(True))


def in_split(split: Column | None, value: str | None) -> Column:
    return F.lit(True) if split is None or value is None else F.coalesce(split == value, F.lit(False))


def check_splits(wanted: Evaluation, columns: list[str]) -> None:
    """Raises UsageError for a split column that is not there, and for values without a column."""
    if wanted.split_column and wanted.split_column not in columns:
        raise missing("evaluation.split_column", wanted.split_column, columns)
    if not wanted.split_column and (wanted.query_split or wanted.pool_split):
        raise UsageError(
            f"evaluation.query_split={wanted.query_split} and evaluation.pool_split={wanted.pool_split} are values of "
            "a column: name it with evaluation.split_column"
        )


def check_split_values(rows: DataFrame, wanted: Evaluation) -> None:
    """Raises UsageError for a value that no product has. rows: with `split`."""
    for name in ("query_split", "pool_split"):
        value = getattr(wanted, name)
        if value is not None and rows.where(F.col("split") == value).isEmpty():
            found = [row["split"] for row in rows.select("split").distinct().orderBy("split").limit(10).collect()]
            raise UsageError(
                f"evaluation.{name}={value}: no product has this value in column {wanted.split_column}; "
                f"its values are {', '.join(map(str, found))}"
            )


def pairs_set(spark: SparkSession, settings: Settings) -> EvaluationSet:
    """Labelled pairs, our own or in the public format. Raises UsageError for other columns."""
    named = settings.evaluation.pairs
    file = Catalogue(path=named.path, format=named.format)
    raw, _ = read_raw(spark, file)
    if {f"{side}_id" for side in PUBLIC_SIDES} <= set(raw.columns):
        return public_set(raw, file, settings)
    if {"trigger_id", "offer_id"} <= set(raw.columns):
        return own_set(spark, raw, file, settings)
    raise UsageError(
        f"{named.path} has the columns {', '.join(raw.columns)}; pairs need trigger_id and offer_id (products of the "
        "catalogue), or the public format's trigger_id, trigger_title, trigger_img, recall_id, recall_title, "
        "recall_img, label"
    )


def public_set(raw: DataFrame, file: Catalogue, settings: Settings) -> EvaluationSet:
    """Triggers query all recalled offers; titles and photos are those of the file."""
    sides = [public_side(raw, side) for side in PUBLIC_SIDES]
    rows = products(sides[0].unionByName(sides[1]), settings).where("content_key is not null and item_id is not null")
    right = raw.where(is_right(raw)).select(F.col("trigger_id").alias("item_id"), F.col("recall_id").alias("answer"))
    right = right.select(*(F.col(name).cast("string") for name in ("item_id", "answer"))).join(
        rows.select(F.col("item_id").alias("answer")), "answer", "left_semi"
    )
    wanted = right.groupBy("item_id").agg(F.collect_set("answer").alias("wanted"))
    offers = raw.select(F.col("recall_id").cast("string").alias("item_id"), F.lit(True).alias("offered")).distinct()
    joined = rows.join(wanted, "item_id", "left").join(offers, "item_id", "left")
    joined = joined.withColumn("in_pool", F.coalesce("offered", F.lit(False))).withColumn("labels", F.array("item_id"))
    chosen = joined.withColumn("own", F.col("item_id")).select(*PRODUCT, *truth_columns())
    return EvaluationSet("pairs", f"labelled pairs of {file.path}", chosen, ANNOTATED, file)


def public_side(raw: DataFrame, side: str) -> DataFrame:
    """One side's products as catalogue rows; an id may come many times."""
    picture = f"{side}_img"
    image = "image" if picture in raw.columns and dict(raw.dtypes)[picture] == "binary" else "image_uri"
    theirs = {"item_id": f"{side}_id", "title": f"{side}_title", image: picture}
    mapping = {ours: name for ours, name in theirs.items() if name in raw.columns}
    columns = {name: kind for name, kind in CATALOGUE_COLUMNS.items() if name != "category"}
    levels = [F.col(name).cast("string") for name in PUBLIC_CATEGORY if name in raw.columns]
    category = F.concat_ws("/", *levels) if levels else F.lit(None).cast("string")
    return raw.select(*our_columns(mapping, columns), category.alias("category"))


def own_set(spark: SparkSession, raw: DataFrame, file: Catalogue, settings: Settings) -> EvaluationSet:
    """Pairs of products of the catalogue. Where they carry style groups, the whole group is right, not the pair alone.

    Both ends query all ends. Where there is a split, its test part is taken: the rest has been trained on.
    """
    if "split" in raw.columns and not raw.where(F.col("split") == TEST).isEmpty():
        raw = raw.where(F.col("split") == TEST)
    ends = (
        pair_ends(raw)
        .groupBy("item_id")
        .agg(F.flatten(F.collect_set("wanted")).alias("wanted"), F.flatten(F.collect_set("groups")).alias("groups"))
    )
    catalogue = products(read_catalogue(spark, settings.catalogue).rows, settings).where("content_key is not null")
    rows = catalogue.join(ends, "item_id")
    say_unknown(ends, rows, file)
    known = rows.select(F.explode("wanted").alias("wanted"), "item_id").join(
        rows.select(F.explode(own_labels()).alias("wanted"), F.col("item_id").alias("other")), "wanted"
    )
    answered = known.where("item_id != other").select("item_id").distinct().withColumn("answered", F.lit(True))
    joined = rows.withColumn("labels", own_labels()).join(answered, "item_id", "left")
    joined = joined.withColumn("wanted", F.when(F.col("answered"), F.array_distinct("wanted")))
    joined = joined.withColumn("in_pool", F.lit(True)).withColumn("own", item_label(F.col("item_id")))
    chosen = joined.select(*PRODUCT, *truth_columns())
    return EvaluationSet("pairs", f"labelled pairs of {file.path}", chosen, WITHIN, settings.catalogue)


def pair_ends(raw: DataFrame) -> DataFrame:
    """item_id, wanted (array of labels), groups (array), a row an end of a pair."""
    right = is_right(raw)
    has_group = "style_group" in raw.columns
    group = F.concat(F.lit("group "), F.col("style_group").cast("string")) if has_group else F.lit(None).cast("string")
    groups = F.when(right & group.isNotNull(), F.array(group)).otherwise(empty())
    ends = [
        raw.select(
            F.col(this).cast("string").alias("item_id"),
            F.when(right, F.concat(groups, F.array(item_label(F.col(other))))).otherwise(empty()).alias("wanted"),
            groups.alias("groups"),
        )
        for this, other in (("trigger_id", "offer_id"), ("offer_id", "trigger_id"))
    ]
    return ends[0].unionByName(ends[1]).where("item_id is not null")


def own_labels() -> Column:
    return F.array_distinct(F.concat("groups", F.array(item_label(F.col("item_id")))))


def item_label(item_id: Column) -> Column:
    return F.concat(F.lit("item "), item_id.cast("string"))


def say_unknown(ends: DataFrame, rows: DataFrame, file: Catalogue) -> None:
    """Raises UsageError where the catalogue has none of the pairs' products."""
    named, known = ends.count(), rows.count()
    if not known:
        raise UsageError(
            f"none of the {named:,} products of {file.path} is in the catalogue: is it that of these pairs?"
        )
    if known < named:
        say(f"{named - known:,} of {named:,} products of {file.path} are not in the catalogue, and left out")


def is_right(raw: DataFrame) -> Column:
    """Pairs without a label were clicked together, and count as right."""
    if "label" not in raw.columns:
        return F.lit(True)
    return F.col("label").isNull() | F.coalesce(try_cast(F.col("label"), "double") > 0, F.lit(False))


def products(rows: DataFrame, settings: Settings) -> DataFrame:
    """Catalogue rows with their contents, one a product."""
    distinct = with_duplicates(with_contents(rows, settings.embed.max_title_chars))
    return distinct.where("item_id is not null and not duplicate")


def truth_columns() -> list[Column]:
    top = F.split("category", "/")[0]
    named = F.when(top != "", top).alias("slice")
    return [named, *(F.col(name) for name in ("in_pool", "labels", "wanted", "own"))]


def empty() -> Column:
    return F.array().cast("array<string>")


def count_rows(one: EvaluationSet) -> tuple[int, int]:
    """Products in the pool, and products that could be queries."""
    row = only_row(one.rows.agg(F.count_if("in_pool").alias("pool"), F.count("wanted").alias("queries")))
    return row["pool"], row["queries"]
