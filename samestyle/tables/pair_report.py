"""What the report of `sample_pairs` shows of its tables: histograms, and a few pairs with their photos."""

from collections.abc import Sequence
from typing import Any

from pyspark.sql import DataFrame, Row, Window
from pyspark.sql import functions as F

from samestyle.progress import say
from samestyle.report.pairs import PairReport, PairSheet, ShownPair, histogram, render_pairs
from samestyle.report.report import Product
from samestyle.settings import to_yaml
from samestyle.tables.facts import Facts, catalogue_rows
from samestyle.tables.pairs import PAIR, group_members
from samestyle.tables.photos import Photo, images_of, load_photos
from samestyle.tables.policies import decode_limits, fetch_policy
from samestyle.tables.reporting import in_short, product
from samestyle.tables.sampling import Candidates
from samestyle.tables.workshop import Workshop

KEPT = "kept"
SHOWN_KEPT, SHOWN_REFUSED = 12, 4
BINS_TO_1, EXACT_SIZES = 20, 8
SHOWN_COLUMNS = ("clicks", "title_cosine", "relevance", "same_style")


def write_pair_report(workshop: Workshop, candidates: Candidates, pairs: DataFrame, record: dict[str, Any]) -> None:
    """Write `<run>/report.html`. Never raises: pairs are not to be lost by their report."""
    target = workshop.run.path / "report.html"
    try:
        target.write_text(pair_page(workshop, candidates, pairs, record), encoding="utf-8")
    except Exception as error:
        say(f"no report {target}: {in_short(error)}")
        return
    say(f"report {target}")


def pair_page(workshop: Workshop, candidates: Candidates, pairs: DataFrame, record: dict[str, Any]) -> str:
    charts = []
    if sizes := group_sizes(pairs):
        charts.append(("Style groups by their offers", histogram(sizes, "offers of a group", "style groups")))
    if cosines := relevance_bins(pairs):
        charts.append(("Pairs by relevance", histogram(cosines, "cosine of the fused vectors", "pairs")))
    sheets = pair_sheets(workshop, candidates)
    return render_pairs(PairReport(workshop.run.run_id, record, tuple(charts), sheets, to_yaml(workshop.settings)))


def group_sizes(pairs: DataFrame) -> list[tuple[str, int]]:
    """(offers of a group, groups): one bin a size for small groups, then one for each doubling."""
    sizes = group_members(pairs).groupBy("style_group").agg(F.count("*").alias("items"))
    items, exact = F.col("items"), EXACT_SIZES.bit_length() - 1
    bins = F.when(items <= EXACT_SIZES, items).otherwise(EXACT_SIZES - exact + F.ceil(F.log2(items)))
    counts = {
        row["bin"]: row["groups"]
        for row in sizes.groupBy(bins.alias("bin")).agg(F.count("*").alias("groups")).collect()
    }

    def name(number: int) -> str:
        power = number - EXACT_SIZES + exact
        return str(number) if number <= EXACT_SIZES else f"{2 ** (power - 1) + 1}-{2**power}"

    return [(name(number), counts.get(number, 0)) for number in range(2, max(counts, default=1) + 1)]


def relevance_bins(pairs: DataFrame) -> list[tuple[str, int]]:
    """(lower end, pairs) of equal bins of the cosine; empty where none is known."""
    # What rounding has put above 1 belongs to the last bin.
    bins = F.least(F.floor(F.col("relevance") * BINS_TO_1), F.lit(BINS_TO_1 - 1)).cast("int")
    known = pairs.where("relevance is not null").groupBy(bins.alias("bin")).count().collect()
    counts = {row["bin"]: row["count"] for row in known}
    if not counts:
        return []
    return [(f"{number / BINS_TO_1:.2f}", counts.get(number, 0)) for number in range(min(counts), BINS_TO_1)]


def pair_sheets(workshop: Workshop, candidates: Candidates) -> tuple[PairSheet, ...]:
    """A sheet of kept pairs, then one for each rule that refused any, in the funnel's order."""
    facts = candidates.facts
    if facts is None:
        return ()
    known = [F.col(name) if name in candidates.rows.columns else F.lit(None).alias(name) for name in SHOWN_COLUMNS]
    ended = F.coalesce("refused", F.lit(KEPT)).alias("ended")
    rows = candidates.rows.select(*PAIR, *known, ended)
    counts = {row["ended"]: row["rows"] for row in rows.groupBy("ended").agg(F.count("*").alias("rows")).collect()}
    drawn = draw_pairs(rows)
    tiles = product_tiles(workshop, facts, sorted({row[end] for row in drawn for end in PAIR if row[end]}))
    order = [KEPT, *(step.rule for step in candidates.funnel.steps if step.rule in counts)]
    return tuple(
        PairSheet(name, counts[name], shown([row for row in drawn if row["ended"] == name], tiles), name != KEPT)
        for name in order
        if name in counts
    )


def draw_pairs(rows: DataFrame) -> list[Row]:
    """A few rows of each way to end, by a fixed draw."""
    place = F.row_number().over(Window.partitionBy("ended").orderBy(F.xxhash64(*PAIR), *PAIR))
    most = F.when(F.col("ended") == KEPT, SHOWN_KEPT).otherwise(SHOWN_REFUSED)
    return rows.withColumn("place", place).where(F.col("place") <= most).orderBy("place").collect()


def shown(rows: Sequence[Row], tiles: dict[str, Product]) -> tuple[ShownPair, ...]:
    def tile(item_id: str | None) -> Product:
        return tiles.get(item_id or "", Product(item_id, missing="not known"))

    return tuple(
        ShownPair(tile(row["trigger_id"]), tile(row["offer_id"]), *[row[name] for name in SHOWN_COLUMNS])
        for row in rows
    )


def product_tiles(workshop: Workshop, facts: Facts, ids: Sequence[str]) -> dict[str, Product]:
    rows = facts.rows.where(F.col("item_id").isin(list(ids))).collect()
    return {row["item_id"]: product(row, photo) for row, photo in zip(rows, photos_of(workshop, rows), strict=True)}


def photos_of(workshop: Workshop, rows: Sequence[Row]) -> list[Photo]:
    """By their URIs; where no row has one, from the catalogue's binary column."""
    settings, images = workshop.settings, None
    if all(row["image_uri"] is None for row in rows) and not settings.is_demo_catalogue:
        images = images_of(catalogue_rows(workshop.spark, settings), [row["item_id"] for row in rows])
    return load_photos(rows, fetch_policy(settings), decode_limits(settings), images)
