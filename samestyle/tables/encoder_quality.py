"""Measure an encoder on executors: its vectors of a set, sampled queries to every part of the pool, exact fair ranks.

The functions that workers run come from udfs/ and are handed in, because this room knows nothing of udfs.
"""

import argparse
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from pyspark.sql import Column, DataFrame, Row
from pyspark.sql import functions as F

from samestyle.encoder.registry import EncoderReference, find_encoder, record_evaluation
from samestyle.errors import UsageError
from samestyle.evaluation.directions import DIRECTIONS, VIEW_OF, Counts, Measured
from samestyle.evaluation.partial import PER_QUERY, Question, ranks_of_parts
from samestyle.evaluation.records import (
    METRICS,
    Figures,
    SetResult,
    evaluation_name,
    evaluation_record,
    results_bytes,
)
from samestyle.evaluation.truth import SHOWN, Queries
from samestyle.progress import say
from samestyle.runs import now
from samestyle.tables.changes import latest_attempts
from samestyle.tables.coverage import unfinished
from samestyle.tables.evaluation_sets import EvaluationSet
from samestyle.tables.io import only_row
from samestyle.tables.members import with_vectors
from samestyle.tables.waves import embed_waves
from samestyle.tables.workshop import Workshop

BEST = "direction string, query int, best float"
COUNTED = "direction string, query int, above long, tied long, relevant long"
TRUTH = ("slice", "in_pool", "labels", "wanted", "own")


@dataclass(frozen=True)
class Functions:
    """What workers run: embed_udf of udfs.embed, and the three of udfs.evaluate."""

    embed_udf: Callable[..., Any]
    best_scorer: Callable[..., Any]
    rank_counter: Callable[..., Any]
    top_finder: Callable[..., Any]


@dataclass(frozen=True)
class Pool:
    """One encoder's vectors of a set: nodes (view, photo, title, labels, item_id, vector), and what they are asked."""

    nodes: DataFrame
    question: Question


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--encoder", metavar="ID", help="which one, or 4 letters of its id; default: the current one")
    parser.add_argument("--against", metavar="ID", help="another one, to compare with, with photos of wins and losses")
    parser.add_argument("--json", metavar="FILE", type=new_file, help="write the figures of all directions here")


def new_file(path: str) -> Path:
    """Said before anything is embedded: a file in a folder that is not there could not be written in the end."""
    if not Path(path).absolute().parent.is_dir():
        raise argparse.ArgumentTypeError(f"{path} would lie in a folder that is not there: make it, or name another")
    return Path(path)


def chosen_encoders(workshop: Workshop) -> list[EncoderReference]:
    """The encoder to measure, and the one to compare it with where one is named. Raises UsageError for unknown ids."""
    store, arguments = workshop.store, workshop.arguments
    first = find_encoder(store, arguments.encoder) if arguments.encoder else workshop.encoder.encoder_id
    chosen = [first, *([find_encoder(store, arguments.against)] if arguments.against else [])]
    if len(set(chosen)) < len(chosen):
        raise UsageError(f"--against names the same encoder, {first}: name another one, `samestyle encoders list`")
    return [EncoderReference(store, encoder_id) for encoder_id in chosen]


def measure_set(
    workshop: Workshop, encoder: EncoderReference, one: EvaluationSet, functions: Functions
) -> tuple[SetResult, Pool]:
    """Embed what has no vectors yet, ask the sampled queries in all directions. The pool's nodes stay persisted.

    Raises UsageError where no product of the pool, or no query, has vectors.
    """
    asked = sample_queries(workshop, one)
    vectors = embedded(workshop, encoder, one, asked, functions)
    found = {row["item_id"]: row for row in vectors.where("asked").collect()}
    answering = [found[item_id] for item_id in asked if item_id in found]
    if len(answering) < len(asked):
        lost = len(asked) - len(answering)
        say(f"{lost:,} of {len(asked):,} queries of {one.about} have no vectors, and are left out")
    if not answering:
        raise UsageError(f"no query of {one.about} could be embedded: `reason` in the table embeddings says why")
    pool = Pool(nodes_of(vectors.where("in_pool")).persist(), Question(queries_of(answering), one.copies))
    say_lost_photos(vectors, one)
    measured, ids = measure(pool, functions), list(pool.question.queries.ids)
    slices = [row["slice"] for row in answering]
    return SetResult(one.name, one.about, set_digest(one, asked), ids, slices, measured), pool


def embedded(
    workshop: Workshop, encoder: EncoderReference, one: EvaluationSet, asked: list[str], functions: Functions
) -> DataFrame:
    """set_vectors of the pool and the queries; contents that the encoder has finished before are not embedded again."""
    ids = workshop.spark.createDataFrame([(item_id, True) for item_id in asked], "item_id string, asked boolean")
    rows = one.rows.join(F.broadcast(ids), "item_id", "left").where("in_pool or asked")
    settings = workshop.settings.model_copy(update={"catalogue": one.catalogue})
    by = replace(workshop, encoder=encoder, settings=settings)
    latest = latest_attempts(workshop.warehouse.embeddings_of(encoder.encoder_id))
    embed_waves(unfinished(rows, latest), by, functions.embed_udf)
    return set_vectors(rows, workshop.warehouse.embeddings_of(encoder.encoder_id))


def say_lost_photos(vectors: DataFrame, one: EvaluationSet) -> None:
    """A set whose photos could not be read is measured by its titles alone: that must not go unseen."""
    lost = vectors.where("outcome = 'degraded'").groupBy("reason").count().orderBy(F.desc("count")).limit(3).collect()
    if lost:
        why = ", ".join(f"{row['count']:,} {row['reason']}" for row in lost)
        say(f"photos of {one.about} that could not be used, so that only the titles count: {why}")


def sample_queries(workshop: Workshop, one: EvaluationSet) -> list[str]:
    """Ids of at most evaluation.queries of them, by a hash, so that every encoder is asked the same ones."""
    order = F.xxhash64("item_id", F.lit(workshop.settings.index.seed))
    drawn = one.rows.where("wanted is not null").select("item_id").orderBy(order, "item_id")
    return [row["item_id"] for row in drawn.limit(workshop.settings.evaluation.queries).collect()]


def set_digest(one: EvaluationSet, asked: list[str]) -> str:
    """Of the queries, and of the pool's products with their contents and labels."""
    row = F.xxhash64("item_id", "content_key", F.array_sort("labels"))
    pool = only_row(one.rows.where("in_pool").agg(F.bit_xor(row).alias("products"), F.count("*").alias("rows")))
    parts = [one.name, one.copies, asked, pool["products"], pool["rows"]]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def set_vectors(rows: DataFrame, embeddings: DataFrame) -> DataFrame:
    """Products that have vectors: item_id, asked, TRUTH, photo and title (digests of what was encoded), vectors,
    outcome and reason of their attempt."""
    finished = latest_attempts(embeddings).where("done_outcome in ('embedded', 'degraded')")
    served = finished.select(
        "content_key",
        F.col("done_embedded_at").alias("served_at"),
        F.col("done_outcome").alias("outcome"),
        F.col("done_reason").alias("reason"),
    )
    wanted = rows.select("item_id", "content_key", F.coalesce("asked", F.lit(False)).alias("asked"), *TRUTH)
    found = with_vectors(wanted.join(served, "content_key"), embeddings)
    return found.withColumn("photo", F.when(F.col("image_vector").isNotNull(), F.col("image_digest"))).withColumn(
        "title", F.when(F.col("text_vector").isNotNull(), F.col("title_hash"))
    )


def nodes_of(pool: DataFrame) -> DataFrame:
    """view, photo, title, labels, item_id, vector: one row for all products that show the same in a view."""
    views = F.explode(F.array(*(node(letter) for letter in VIEW_OF)))
    shown = pool.select("item_id", "labels", views.alias("node")).select("item_id", "labels", "node.*")
    return (
        shown.where("vector is not null")
        .groupBy("view", "photo", "title")
        .agg(
            F.array_distinct(F.flatten(F.collect_set("labels"))).alias("labels"),
            F.min("item_id").alias("item_id"),
            F.min_by("vector", "item_id").alias("vector"),
        )
    )


def node(letter: str) -> Column:
    """What a product shows in a view; a part that the view does not show is null."""
    parts = [F.col(part) if part in SHOWN[letter] else F.lit(None).cast("string") for part in ("photo", "title")]
    return F.struct(
        F.lit(letter).alias("view"),
        parts[0].alias("photo"),
        parts[1].alias("title"),
        F.col(f"{VIEW_OF[letter]}_vector").alias("vector"),
    )


def queries_of(rows: list[Row]) -> Queries:
    dim = max(len(row["fused_vector"]) for row in rows)
    views = {
        view: np.array([row[f"{view}_vector"] or [0.0] * dim for row in rows], np.float32) for view in VIEW_OF.values()
    }
    ids, wanted, own, photos, titles = (
        [row[name] for row in rows] for name in ("item_id", "wanted", "own", "photo", "title")
    )
    return Queries(ids, wanted, own, photos, titles, views)


def measure(pool: Pool, functions: Functions) -> dict[str, Measured]:
    """Two passes over the nodes; the driver sees a row a query and direction."""
    sizes = {row["view"]: row["count"] for row in pool.nodes.groupBy("view").count().collect()}
    best = {d: np.full(len(pool.question.queries), -np.inf, np.float32) for d in DIRECTIONS}
    scored = pool.nodes.mapInArrow(functions.best_scorer(pool.question), BEST)
    for row in scored.groupBy("direction", "query").agg(F.max("best").alias("best")).collect():
        best[row["direction"]][row["query"]] = row["best"]
    counts = {d: np.zeros((len(PER_QUERY), len(pool.question.queries)), np.int64) for d in DIRECTIONS}
    counted = pool.nodes.mapInArrow(functions.rank_counter(pool.question, best), COUNTED)
    for row in counted.groupBy("direction", "query").agg(*(F.sum(name).alias(name) for name in PER_QUERY)).collect():
        counts[row["direction"]][:, row["query"]] = [row[name] for name in PER_QUERY]
    return {d: Measured(ranks_of_parts(best[d], Counts(*counts[d])), sizes.get(d[2], 0)) for d in DIRECTIONS}


def record(workshop: Workshop, encoder: EncoderReference, results: list[SetResult]) -> dict[str, Any]:
    """Keep what was measured, in the encoder's folder and in the table evaluations; returns it."""
    name, resamples = evaluation_name(results), workshop.settings.evaluation.bootstrap
    for result in results:
        if not any(len(measured.ranks.rows) for measured in result.measured.values()):
            raise UsageError(f"no query of {result.about} has a right answer that is not the same photo or title again")
    found = evaluation_record(name, encoder.encoder_id, now(), results, resamples)
    workshop.lease.check()
    record_evaluation(workshop.store, encoder.encoder_id, name, found, results_bytes(results))
    table = workshop.warehouse.evaluations
    head = (workshop.run.run_id, encoder.encoder_id, None, None)
    rows = [
        (*head, direction, place, *values)
        for set_name, one in found["sets"].items()
        for place, figures in [(set_name, one["directions"])]
        + [(f"{set_name}/{part}", figures) for part, figures in one["slices"].items()]
        for direction, values in metric_rows(figures)
    ]
    table.append(workshop.spark.createDataFrame(rows, table.schema))
    return found


def metric_rows(figures: Figures) -> list[tuple[str, tuple[Any, ...]]]:
    """(direction, (metric, value, queries, low, high)) of each."""
    return [
        (direction, (metric, entry[metric], entry["queries"], *entry["intervals"][metric]))
        for direction, entry in figures.items()
        for metric in METRICS
    ]


def say_figures(found: dict[str, Any]) -> None:
    """The layout of the published table."""
    sets = [(f"{name}: {one['about']}", one["directions"]) for name, one in found["sets"].items()]
    if len(sets) > 1:
        sets.append(("mean over the sets", found["mean"]))
    for title, figures in sets:
        say(f"encoder {found['encoder_id']} on {title}")
        print(figures_table(figures), flush=True)


def figures_table(figures: Figures) -> str:
    head = f"  {'setting':<8} {'MRR':>6} {'R@1':>6} {'R@5':>6} {'R@10':>6} {'R@20':>6} {'queries':>9} {'pool':>9}"
    lines = [
        f"  {direction:<8} "
        + " ".join(f"{entry[metric]:6.4f}" for metric in METRICS)
        + f" {entry['queries']:9,} {entry['pool']:9,}"
        for direction, entry in figures.items()
    ]
    return "\n".join([head, *lines])


def write_json(target: Path | None, found: dict[str, Any]) -> None:
    """Direction to its figures, the mean over the sets. Raises UsageError where the file cannot be written."""
    if target is None:
        return
    try:
        target.write_text(json.dumps(found["mean"], indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise UsageError(
            f"cannot write --json {target}: {error.strerror}; name a file in a folder that exists"
        ) from None
