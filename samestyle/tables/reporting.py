"""What a run's report shows of the tables: small samples that do not grow with the catalogue, and their photos."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from pyspark.sql import DataFrame, Row, Window
from pyspark.sql import functions as F

from samestyle.code import code_version
from samestyle.progress import say
from samestyle.release.comparison import differing, flat
from samestyle.release.manifest import Manifest
from samestyle.report.report import RECORDS, Affected, Change, Neighbour, Product, Records, Report, Sheet, render
from samestyle.report.trend import NIGHTS
from samestyle.runs import RunFolder, list_runs
from samestyle.settings import to_yaml
from samestyle.tables.neighbours import own_rows
from samestyle.tables.night import Night
from samestyle.tables.photos import Photo, images_of, load_photos
from samestyle.tables.policies import decode_limits, fetch_policy
from samestyle.tables.source import read_catalogue
from samestyle.tables.turnover import turnover

TRIGGERS, DRAWN, PER_BAND = 8, 40, 5
REASONS, PER_REASON = 12, 6
AFFECTED_STATES = ("rejected", "degraded", "stale")
# The worker has tried these photos and failed; it would be no use to try again here.
SHOWN_REASONS = ("duplicate_id", "no_item_id")
PRODUCT_COLUMNS = ("item_id", "title", "image_uri", "supplier_id", "category", "state", "reason", "detail")
T = TypeVar("T")
Loader = Callable[[Sequence[Row]], list[Photo]]


def write_report(night: Night) -> Path | None:
    """Write `<run>/report.html`; its path, or None where that failed, which is said in one line. Never raises:
    a run that has ended is not to fail by its report."""
    target = night.run.path / "report.html"
    try:
        target.write_text(render(collect_report(night)), encoding="utf-8")
    except Exception as error:
        say(f"no report {target}: {in_short(error)}")
        return None
    return target


def collect_report(night: Night) -> Report:
    """The report's data. What cannot be found out becomes a sentence in `problems`."""
    problems: list[str] = []

    def attempt(what: str, find: Callable[[], T], otherwise: T) -> T:
        try:
            return find()
        except Exception as error:
            problems.append(f"{what}: {in_short(error)}")
            return otherwise

    records = {name: record for name in RECORDS if (record := night.run.read(name)) is not None}
    others: dict[str, Any] = {}
    records |= attempt("the nights before", lambda: other_nights(night), others)
    has_items, module = "embed" in records, next(iter(records.get("neighbours", {}).get("rows", {})), "")
    load = photo_loader(night, records, problems)
    return Report(
        run_id=night.run.run_id,
        records=records,
        settings=to_yaml(night.settings),
        code_version=code_version(),
        recall_chart=attempt("recall chart", lambda: recall_chart(records), None),
        shard_chart=attempt("chart of shards", lambda: shard_chart(records), None),
        threshold_chart=attempt("threshold chart", lambda: threshold_chart(records), None),
        changes=attempt("what changed", lambda: changes(night, load), ()) if has_items and night.parent else (),
        affected=attempt("affected rows", lambda: affected(night.items(), load), ()) if has_items else (),
        sheet_module=module,
        sheets=attempt("neighbour sheets", lambda: sheets(night, module, load), ()) if module else (),
        problems=tuple(dict.fromkeys(problems)),
    )


def in_short(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__


def other_nights(night: Night) -> dict[str, Any]:
    """The records `before`, the parent release, and `nights`, the published runs before, oldest first."""
    runs = [run for run in list_runs(night.settings) if run.run_id < night.run.run_id]
    published = [run for run in runs if run.summary.get("release_id")][-NIGHTS:]
    nights = [{"summary": run.summary, "gate": gate_values(run)} for run in published]
    return {"nights": nights} | ({"before": before(night, night.parent)} if night.parent else {})


def gate_values(run: RunFolder) -> dict[str, float]:
    return {result["rule"]: result["value"] for result in (run.read("gate") or {}).get("results", [])}


def before(night: Night, parent: Manifest) -> dict[str, Any]:
    """What the parent's manifest tells, as a summary; its run's folder, which may be gone, knows the seconds."""
    now = {"encoder": night.encoder.encoder_id, "code": code_version(), **flat(night.settings.model_dump(mode="json"))}
    then = {"encoder": parent.encoder.encoder_id, "code": parent.code_version, **flat(parent.settings)}
    return {
        "release_id": parent.release_id,
        "created_at": parent.created_at,
        "counts": parent.ledger,
        "items": {module: parent.module_items(module) for module in parent.modules()},
        "recall": {f"{index.module}/{index.view}": asdict(index.recall) for index in parent.indexes},
        "same_style_r1": parent.style_recall or {},
        "timings_s": (RunFolder(night.run.path.parent / parent.run_id).read("timings")) or {},
        "switched": [(name, *values) for name, values in differing(then, now).items()],
    }


def changes(night: Night, load: Loader) -> tuple[Change, ...]:
    return turnover(night.baseline(), night.items(), lambda rows: products(rows, load))


def recall_chart(records: Records) -> bytes | None:
    indexes = records.get("evaluate_index", {}).get("indexes")
    if not indexes:
        return None
    from samestyle.report.charts import recall_curves  # matplotlib takes a second to import

    results = records.get("gate", {}).get("results", [])
    limits = [result["limit"] for result in results if result["rule"].startswith("recall ")]
    return recall_curves(indexes, min(limits, default=None))


def shard_chart(records: Records) -> bytes | None:
    indexes = records.get("build_index", {}).get("indexes")
    if not indexes:
        return None
    from samestyle.report.charts import shard_sizes  # matplotlib takes a second to import

    return shard_sizes(indexes)


def threshold_chart(records: Records) -> bytes | None:
    evaluated = records.get("evaluate_index", {})
    if not evaluated.get("threshold_curve"):
        return None
    from samestyle.report.charts import threshold_curve  # matplotlib takes a second to import

    calibration = evaluated["thresholds"]["calibration"] or {}
    chosen, wanted = evaluated["thresholds"]["same_style"], calibration.get("precision")
    return threshold_curve(evaluated["threshold_curve"], chosen, wanted)


def photo_loader(night: Night, records: Records, problems: list[str]) -> Loader:
    """Loads photos of rows with item_id and image_uri; those of a binary column from the catalogue itself."""
    policy, limits, embed = fetch_policy(night.settings), decode_limits(night.settings), records.get("embed", {})

    def load(rows: Sequence[Row]) -> list[Photo]:
        return load_photos(rows, policy, limits)

    def load_binary(rows: Sequence[Row]) -> list[Photo]:
        if not rows:
            return []
        source = read_catalogue(night.spark, night.settings.catalogue)
        if source.version != embed["source_version"]:
            problems.append("photos: the catalogue has changed since the run read it; they are not shown")
            return [Photo(None, "not shown") for _ in rows]
        ids = [row["item_id"] for row in rows if row["item_id"]]
        return load_photos(rows, policy, limits, images_of(source.rows, ids))

    return load_binary if "image" in embed.get("mapped", ()) else load


def affected(items: DataFrame, load: Loader) -> tuple[Affected, ...]:
    """Rows that did not end well, by state and reason, the most frequent first, each with a few examples."""
    rows = items.where(F.col("state").isin(*AFFECTED_STATES))
    counts = rows.groupBy("state", "reason").count().orderBy(F.desc("count"), "state", "reason").limit(REASONS)
    counted = counts.collect()
    examples = products(example_rows(rows).collect(), load)
    return tuple(
        Affected(
            c["state"],
            c["reason"] or "no reason",
            c["count"],
            tuple(
                (p, row["detail"]) for row, p in examples if (row["state"], row["reason"]) == (c["state"], c["reason"])
            ),
        )
        for c in sorted(counted, key=lambda c: AFFECTED_STATES.index(c["state"]))
    )


def example_rows(rows: DataFrame) -> DataFrame:
    """At most PER_REASON rows a state and reason, by a fixed draw."""
    drawn = Window.partitionBy("state", "reason").orderBy(F.xxhash64("item_id"), "title")
    numbered = rows.select(*PRODUCT_COLUMNS, F.row_number().over(drawn).alias("place"))
    return numbered.where(F.col("place") <= PER_REASON).orderBy("place").limit(REASONS * PER_REASON)


def sheets(night: Night, module: str, load: Loader) -> tuple[Sheet, ...]:
    """The neighbours of a few triggers of one module, beside those that the parent release listed."""
    table, items = night.warehouse.neighbours.read(), served_products(night.items())
    rows = table.where(own_rows(module, night.release_id))
    triggers = choose_triggers(rows, items)
    old = table.where(own_rows(module, night.parent.release_id)) if night.parent else rows.limit(0)
    now, then = lists_of(rows, triggers), lists_of(old, triggers)
    tiles = tiles_of(night, items, {*triggers, *neighbour_ids(*map(top, [*now.values(), *then.values()]))}, load)
    return tuple(sheet(trigger, tiles, now[trigger], then[trigger]) for trigger in triggers if trigger in tiles)


def tiles_of(night: Night, items: DataFrame, ids: set[str], load: Loader) -> dict[str, Product]:
    """By item id; what is served no more as the parent served it."""
    found = items.where(F.col("item_id").isin(list(ids))).collect()
    if withdrawn := ids - {row["item_id"] for row in found}:
        found += served_products(night.baseline()).where(F.col("item_id").isin(list(withdrawn))).collect()
    return {row["item_id"]: tile for row, tile in products(found, load)}


def served_products(items: DataFrame) -> DataFrame:
    return items.where(F.col("content_key").isNotNull()).select(*PRODUCT_COLUMNS)


def lists_of(rows: DataFrame, triggers: Sequence[str]) -> dict[str, list[Row]]:
    """The rows of each trigger, best first."""
    lists: dict[str, list[Row]] = {trigger: [] for trigger in triggers}
    for row in rows.where(F.col("item_id").isin(list(triggers))).orderBy("rank").collect():
        lists[row["item_id"]].append(row)
    return lists


def top(rows: Sequence[Row]) -> list[Row]:
    """Those that are shown."""
    return [row for row in rows if row["rank"] <= PER_BAND]


def neighbour_ids(*lists: Iterable[Row]) -> set[str]:
    return {row["neighbour_id"] for rows in lists for row in rows}


def sheet(trigger: str, tiles: dict[str, Product], now: list[Row], then: list[Row]) -> Sheet:
    """now, then: the whole lists of tonight and of the parent. Where the parent has none, nothing counts as new."""

    def neighbours(rows: Iterable[Row]) -> tuple[Neighbour, ...]:
        known = [row for row in rows if row["neighbour_id"] in tiles]
        return tuple(Neighbour(row["band"], row["score"], tiles[row["neighbour_id"]]) for row in known)

    if not then:
        return Sheet(tiles[trigger], neighbours(top(now)))
    listed, was = neighbour_ids(now), neighbour_ids(then)
    gone = [row for row in top(then) if row["neighbour_id"] not in listed]
    return Sheet(tiles[trigger], neighbours(top(now)), frozenset(listed - was), neighbours(gone))


def choose_triggers(rows: DataFrame, items: DataFrame) -> list[str]:
    """Item ids by a fixed draw, so that tonight's and yesterday's report show the same: those with a same-style
    neighbour first, and of these one a category before a second. rows: schemas.NEIGHBOURS."""
    chosen: list[str] = []
    for bands in (("same_style",), ("similar", "duplicate")):
        if len(chosen) < TRIGGERS:
            best = rows.where(F.col("band").isin(*bands) & (F.col("rank") == 1) & ~F.col("item_id").isin(chosen))
            draw = best.select("item_id").orderBy(F.xxhash64("item_id"), "item_id").limit(DRAWN).collect()
            ids = list(dict.fromkeys(row["item_id"] for row in draw))
            known = items.where(F.col("item_id").isin(ids)).select("item_id", "category").collect()
            chosen += one_a_category(ids, {row["item_id"]: row["category"] for row in known})
    return chosen[:TRIGGERS]


def one_a_category(ids: Sequence[str], categories: dict[str, str | None]) -> list[str]:
    """The ids, the first of each category before all second ones."""
    seen: Counter[str | None] = Counter()
    turns = {}
    for item_id in ids:
        turns[item_id] = seen[categories.get(item_id)]
        seen[categories.get(item_id)] += 1
    return sorted(ids, key=lambda item_id: turns[item_id])  # stable: the draw's order within a turn


def products(rows: Sequence[Row], load: Loader) -> list[tuple[Row, Product]]:
    """Each row with its tile."""
    hopeless = [row["state"] in AFFECTED_STATES and row["reason"] not in SHOWN_REASONS for row in rows]
    loaded = iter(load([row for row, skip in zip(rows, hopeless, strict=True) if not skip]))
    photos = [
        Photo(None, row["reason"] or "no photo") if skip else next(loaded)
        for row, skip in zip(rows, hopeless, strict=True)
    ]
    return [(row, product(row, photo)) for row, photo in zip(rows, photos, strict=True)]


def product(row: Row, photo: Photo) -> Product:
    names = (row["item_id"], row["title"], row["supplier_id"], row["category"])
    return Product(*names, photo.jpeg(), photo.missing)
