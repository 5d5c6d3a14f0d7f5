"""What the report of `evaluate_encoder` shows of two encoders: their difference, and photos of a few queries."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
from pyspark.sql import functions as F

from samestyle.evaluation.comparison import Change, changes, compare
from samestyle.evaluation.partial import Question
from samestyle.evaluation.records import SetResult
from samestyle.evaluation.truth import Queries
from samestyle.progress import say
from samestyle.report.quality import Contest, Found, QualityReport, render_quality
from samestyle.report.report import Product
from samestyle.settings import to_yaml
from samestyle.tables.encoder_quality import Functions, Pool
from samestyle.tables.evaluation_sets import EvaluationSet
from samestyle.tables.photos import images_of, load_photos
from samestyle.tables.policies import decode_limits, fetch_policy
from samestyle.tables.reporting import in_short, product
from samestyle.tables.workshop import Workshop

SHEET = "m-m"
SHEETS, SHOWN = 4, 5  # queries won, and as many lost; products found for each
TOP = "direction string, query int, item_id string, score float, right boolean"
Measured = Sequence[Sequence[tuple[SetResult, Pool]]]  # encoder by encoder, set by set


def write_quality_report(
    workshop: Workshop,
    sets: Sequence[EvaluationSet],
    records: Sequence[dict[str, Any]],
    measured: Measured,
    functions: Functions,
) -> None:
    """Write `<run>/report.html`. Never raises: what was measured is not to be lost by its report."""
    target = workshop.run.path / "report.html"
    try:
        target.write_text(render_quality(quality_page(workshop, sets, records, measured, functions)), encoding="utf-8")
    except Exception as error:
        say(f"no report {target}: {in_short(error)}")
        return
    say(f"report {target}")


def quality_page(
    workshop: Workshop,
    sets: Sequence[EvaluationSet],
    records: Sequence[dict[str, Any]],
    measured: Measured,
    functions: Functions,
) -> QualityReport:
    page = QualityReport(workshop.run.run_id, records[0], settings=to_yaml(workshop.settings))
    if len(records) == 1:
        return page
    ours, theirs = (pa.concat_tables([result.rows() for result, _ in results]) for results in measured)
    compared = compare(theirs, ours, resamples=workshop.settings.evaluation.bootstrap)
    wins: tuple[Contest, ...] = ()
    losses: tuple[Contest, ...] = ()
    for number, one in enumerate(sets):
        found = changes(theirs, ours, one.name, SHEET)
        won = [change for change in found if change.second > change.first][:SHEETS]
        lost = [change for change in reversed(found) if change.second < change.first][:SHEETS]
        pools = [measured[0][number][1], measured[1][number][1]]
        shown = contests(workshop, one, [*won, *lost], pools, functions)
        wins, losses = wins + shown[: len(won)], losses + shown[len(won) :]
    return replace(page, other=records[1], compared=compared, wins=wins, losses=losses)


def contests(
    workshop: Workshop, one: EvaluationSet, chosen: Sequence[Change], pools: Sequence[Pool], functions: Functions
) -> tuple[Contest, ...]:
    """What both encoders find for these queries; pools: ours, theirs."""
    if not chosen:
        return ()
    ids = [change.query_id for change in chosen]
    lists = [top_lists(pool, ids, functions) for pool in pools]
    shown = {*ids, *(row["item_id"] for found in lists for rows in found.values() for row in rows)}
    tiles = products(workshop, one, sorted(shown))

    def found(rows: Sequence[Any]) -> tuple[Found, ...]:
        return tuple(Found(tiles[row["item_id"]], row["score"], row["right"]) for row in rows)

    return tuple(
        Contest(tiles[c.query_id], one.name, c.second, c.first, *(found(of.get(c.query_id, ())) for of in lists))
        for c in chosen
    )


def top_lists(pool: Pool, ids: Sequence[str], functions: Functions) -> dict[str, list[Any]]:
    """Query's id to the rows of what it finds, best first."""
    question = Question(taken(pool.question.queries, ids), pool.question.copies, (SHEET,))
    nodes = pool.nodes.where(F.col("view") == SHEET[2])
    rows = nodes.mapInArrow(functions.top_finder(question, SHOWN), TOP)
    ranked = rows.groupBy("query").agg(F.collect_list(F.struct("score", "item_id", "right")).alias("found"))
    best = ranked.select("query", F.slice(F.sort_array("found", asc=False), 1, SHOWN).alias("found")).collect()
    return {question.queries.ids[row["query"]]: row["found"] for row in best}


def taken(queries: Queries, ids: Sequence[str]) -> Queries:
    """Those of these ids."""
    places = {query_id: place for place, query_id in enumerate(queries.ids)}
    rows = np.array([places[query_id] for query_id in ids if query_id in places])
    columns = (queries.wanted, queries.own, queries.photos, queries.titles)
    wanted, own, photos, titles = ([column[row] for row in rows] for column in columns)
    views = {view: vectors[rows] for view, vectors in queries.views.items()}
    return Queries([queries.ids[row] for row in rows], wanted, own, photos, titles, views)


def products(workshop: Workshop, one: EvaluationSet, ids: Sequence[str]) -> dict[str, Product]:
    """Item id to its tile, with its photo."""
    columns = ("item_id", "title", "image_uri", "supplier_id", "category")
    rows = one.rows.where(F.col("item_id").isin(list(ids))).select(*columns).collect()
    settings = workshop.settings.model_copy(update={"catalogue": one.catalogue})
    photos = load_photos(rows, fetch_policy(settings), decode_limits(settings), images_of(one.rows, ids))
    return {row["item_id"]: product(row, photo) for row, photo in zip(rows, photos, strict=True)}
