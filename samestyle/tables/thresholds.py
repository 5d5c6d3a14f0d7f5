"""The lowest scores of the bands: that of same_style follows from labels, where there are some."""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from samestyle.evaluation.thresholds import (
    FIT,
    SHOW,
    JudgedPairs,
    Point,
    curve,
    fit_threshold,
    point,
    precision_interval,
)
from samestyle.index.candidates import Reach
from samestyle.release.manifest import Calibration, Precision, Thresholds
from samestyle.settings import Catalogue, Neighbours
from samestyle.tables.evaluation_sets import is_right
from samestyle.tables.indexes import Record, WorkerFunction, find_candidates
from samestyle.tables.members import with_vectors
from samestyle.tables.modules import whole_catalogue
from samestyle.tables.neighbours import same_supplier
from samestyle.tables.night import Night
from samestyle.tables.source import read_raw

# Without labels. docs/concepts.md says how many pairs above it are right in shops where that is known.
CAUTIOUS = 0.85
LOWEST = 0.3  # no style is told by less
PAIRS_MAX = 200_000
JUDGED = ("asked", "half", "score", "right")
Labels = tuple[str, DataFrame]


@dataclass(frozen=True)
class Bands:
    """Tonight's thresholds, a sentence that says where they come from, and the curve of the half that none was fitted
    on."""

    thresholds: Thresholds
    sentence: str
    curve: tuple[Point, ...] = ()

    def record(self) -> dict[str, Any]:
        return {
            "thresholds": asdict(self.thresholds),
            "threshold_sentence": self.sentence,
            "threshold_curve": [asdict(one) for one in self.curve],
        }


def uncalibrated(limits: Neighbours) -> Thresholds:
    return with_others(CAUTIOUS if limits.same_style_min is None else limits.same_style_min, limits)


def with_others(same_style: float, limits: Neighbours, calibration: Calibration | None = None) -> Thresholds:
    """The settings' similar and duplicate, moved where they would not be in order."""
    similar, duplicate = min(limits.similar_min, same_style), max(limits.duplicate_min, same_style)
    return Thresholds(same_style, similar, duplicate, calibration is not None, calibration)


def choose_thresholds(
    night: Night, records: list[Record], efs: list[int], finder: Callable[..., WorkerFunction]
) -> Bands:
    """Calibrated on the first labels that there are: labelled pairs, those of the table, true styles.

    The parent's threshold stays while the precision wanted lies within the interval that is measured tonight, so that
    the lists of neighbours stay comparable. A `same_style_min` of the settings is taken as it is.
    """
    limits = night.settings.neighbours
    if limits.same_style_min is not None:
        return Bands(
            uncalibrated(limits), f"thresholds: same_style from {limits.same_style_min:g}, as the settings say"
        )
    for labels, rows in known_labels(night, records, efs, finder):
        judged = collected(rows)
        fit, show = judged.of(FIT), judged.of(SHOW)
        points = tuple(curve(show, LOWEST)) if len(show) else ()
        chosen = kept_threshold(night, labels, show) or fit_threshold(curve(fit, LOWEST), limits.precision)
        if chosen is None or not point(show, chosen).pairs:
            return Bands(uncalibrated(limits), out_of_reach(labels, limits, len(fit)), points)
        calibration = Calibration(labels, limits.precision, precision(fit, chosen), precision(show, chosen))
        return Bands(with_others(chosen, limits, calibration), in_words(chosen, calibration), points)
    return Bands(uncalibrated(limits), f"thresholds: uncalibrated, there are no labels; same_style from {CAUTIOUS:g}")


def kept_threshold(night: Night, labels: str, show: JudgedPairs) -> float | None:
    """The parent's threshold, where it was fitted on the same labels for the same, and still holds."""
    wanted = night.settings.neighbours.precision
    indexes = night.parent.indexes if night.parent and night.same_encoder() else ()
    for before in (index.thresholds for index in indexes if index.view == "fused"):
        fitted = before.calibration
        if fitted and (fitted.labels, fitted.precision) == (labels, wanted):
            now = precision_interval(show, before.same_style)
            return before.same_style if now.low <= wanted <= now.high else None
    return None


def precision(judged: JudgedPairs, threshold: float) -> Precision:
    at, interval = point(judged, threshold), precision_interval(judged, threshold)
    return Precision(at.pairs, at.precision, interval.low, interval.high, at.recall)


def in_words(threshold: float, calibration: Calibration) -> str:
    fitted, shown = calibration.fitted, calibration.shown
    return (
        f"thresholds: same_style from {threshold:.2f}, calibrated on {calibration.labels} for a precision of "
        f"{calibration.precision:g}: {fitted.value:.3f} of {fitted.pairs:,} pairs on one half, {shown.value:.3f} "
        f"({shown.low:.3f} to {shown.high:.3f}) of {shown.pairs:,} on the other"
    )


def out_of_reach(labels: str, limits: Neighbours, pairs: int) -> str:
    return (
        f"thresholds: uncalibrated, on {labels} ({pairs:,} pairs to fit) no score gives a precision of "
        f"{limits.precision:g}; same_style from {CAUTIOUS:g}"
    )


def collected(rows: DataFrame) -> JudgedPairs:
    """rows: JUDGED, of sampled items, at most PAIRS_MAX."""
    frame = rows.select(*JUDGED).orderBy("asked", "score").limit(PAIRS_MAX).toPandas()
    scores, right, half = (frame[name].to_numpy() for name in ("score", "right", "half"))
    return JudgedPairs(scores.astype(float), right.astype(bool), frame["asked"].factorize()[0], half.astype(int))


def known_labels(
    night: Night, records: list[Record], efs: list[int], finder: Callable[..., WorkerFunction]
) -> Iterator[Labels]:
    """What labels there are, in words, with their pairs (JUDGED)."""
    named = night.settings.evaluation.pairs
    if named.path:
        raw = read_raw(night.spark, Catalogue(path=named.path, format=named.format))[0]
        if {"trigger_id", "offer_id", "label"} <= set(raw.columns):
            yield from labelled(night, f"labelled pairs of {named.path}", raw)
    if night.warehouse.pairs.exists:
        yield from labelled(night, "the labelled pairs of table pairs", night.warehouse.pairs.read())
    whole = whole_catalogue(night.settings)
    places = [n for n, r in enumerate(records) if (r["module"], r["view"]) == (whole, "fused")]
    if "style_group" in night.run.required("embed")["mapped"] and places:
        yield "styles of the catalogue", styled_pairs(night, records[places[0]], efs[places[0]], finder)


def labelled(night: Night, labels: str, raw: DataFrame) -> Iterator[Labels]:
    """Labelled pairs of items of other suppliers, if there are right and wrong ones; validation is fitted, test shown.

    Pairs that were trained on are left out; without splits, the hash of the trigger tells the halves.
    """
    split = F.col("split") if "split" in raw.columns else F.lit(None).cast("string")
    half = F.when(split == "validation", FIT).when(split == "test", SHOW).when(split.isNull(), half_of("trigger_id"))
    pairs = raw.select(
        F.col("trigger_id").cast("string").alias("asked"),
        F.col("offer_id").cast("string").alias("offer"),
        half.alias("half"),
        is_right(raw).alias("right"),
        "label",
    )
    pairs = pairs.where("half is not null and label is not null")
    if pairs.select("right").distinct().count() < 2:
        return
    served = with_vectors(night.items().where("content_key is not null"), night.embeddings())
    first = served.selectExpr("item_id as asked", "supplier_id as own_supplier", "fused_vector as own_vector")
    second = served.selectExpr("item_id as offer", "supplier_id", "fused_vector")
    scored = pairs.join(first, "asked").join(second, "offer").where(~same_supplier())
    dot = "aggregate(zip_with(own_vector, fused_vector, (x, y) -> double(x) * y), 0D, (sum, x) -> sum + x)"
    yield labels, scored.select("asked", "half", F.expr(dot).alias("score"), "right")


def styled_pairs(night: Night, record: Record, ef: int, finder: Callable[..., WorkerFunction]) -> DataFrame:
    """Sampled items of known style with their candidates of other suppliers: right is what has the same style."""
    limits, seed = night.settings.neighbours, night.settings.index.seed
    styles = night.items().where("content_key is not null and style_group is not null")
    sampled = styles.orderBy(F.xxhash64("item_id", F.lit(seed)), "item_id").limit(limits.labelled)
    asked = with_vectors(sampled, night.embeddings()).select(
        F.lit(0).alias("index"),
        F.col("item_id").alias("query_id"),
        F.col("style_group").alias("wanted"),
        F.col("supplier_id").alias("own_supplier"),
        half_of("style_group").alias("half"),
        F.col("fused_vector").alias("vector"),
    )
    reach = Reach(limits.candidates, ef, floor=LOWEST, members=limits.keep)
    found = find_candidates(night, [record], asked.select("index", "query_id", "vector"), [reach], finder)
    of_others = found.join(asked.drop("index", "vector"), "query_id").where(~same_supplier())
    known = of_others.where("item_id != query_id").join(styles.select("item_id", "style_group"), "item_id")
    right = (F.col("style_group") == F.col("wanted")).alias("right")
    return known.select(F.col("query_id").alias("asked"), "half", "score", right)


def half_of(column: str) -> Column:
    return F.pmod(F.xxhash64(column), F.lit(2)).cast("int")
