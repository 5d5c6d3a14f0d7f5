"""What executors run to rank a pool, on Arrow batches as Spark hands them over: views mixed, parts of any size."""

import numpy as np
import pyarrow as pa
import pytest

from samestyle.evaluation.directions import DIRECTIONS, Counts
from samestyle.evaluation.partial import Question, ranks_of_parts
from samestyle.evaluation.truth import Products, search
from udfs.evaluate import best_scorer, rank_counter, top_finder

ROWS, DIM = 30, 4


@pytest.fixture(scope="module")
def shop():
    random = np.random.default_rng(2)
    rows = {view: random.standard_normal((ROWS, DIM)).astype(np.float32) for view in ("image", "text", "fused")}
    views = {view: vectors / np.linalg.norm(vectors, axis=1, keepdims=True) for view, vectors in rows.items()}
    views["image"][:3] = 0
    names = [f"item {n}" for n in range(ROWS)]
    photos = [None if n < 3 else f"p{n}" for n in range(ROWS)]
    return Products(names, [f"style {n % 7}" for n in range(ROWS)], photos, [f"t{n}" for n in range(ROWS)], views)


@pytest.fixture(scope="module")
def batches(shop):
    """All nodes of all views in a random order, in batches of 11 rows."""
    rows = []
    for letter in "itm":
        nodes = shop.nodes(letter)
        for n in range(len(nodes)):
            named = nodes.photos[n] or nodes.titles[n]
            rows.append((letter, nodes.photos[n], nodes.titles[n], sorted(nodes.labels[n]), named, nodes.vectors[n]))
    mixed = [rows[n] for n in np.random.default_rng(3).permutation(len(rows))]
    names = ("view", "photo", "title", "labels", "item_id", "vector")
    types = (pa.string(), pa.string(), pa.string(), pa.list_(pa.string()), pa.string(), pa.list_(pa.float32()))
    columns = [pa.array(list(values), kind) for values, kind in zip(zip(*mixed, strict=True), types, strict=True)]
    return pa.Table.from_arrays(columns, names=names).to_batches(max_chunksize=11)


def results(function, batches):
    return [row for batch in function(iter(batches)) for row in batch.to_pylist()]


def test_best_scores_and_counts_of_two_tasks_give_the_ranks_of_the_whole(shop, batches):
    question, queries = Question(shop.queries()), shop.queries()
    tasks = batches[:4], batches[4:]
    best = {d: np.full(len(queries), -np.inf, np.float32) for d in DIRECTIONS}
    for task in tasks:
        for row in results(best_scorer(question), task):
            best[row["direction"]][row["query"]] = max(best[row["direction"]][row["query"]], row["best"])
    counts = {d: np.zeros((3, len(queries)), np.int64) for d in DIRECTIONS}
    for task in tasks:
        for row in results(rank_counter(question, best), task):
            counts[row["direction"]][:, row["query"]] += (row["above"], row["tied"], row["relevant"])
    for direction, measured in search(queries, shop).items():
        found = ranks_of_parts(best[direction], Counts(*counts[direction]))
        assert found.rows.tolist() == measured.ranks.rows.tolist()
        assert found.reciprocal.tolist() == measured.ranks.reciprocal.tolist()


def test_the_best_nodes_of_a_query(shop, batches):
    question = Question(shop.queries(), directions=("m-m",))
    rows = [row for row in results(top_finder(question, 3), batches) if row["query"] == 5]
    top = sorted(rows, key=lambda row: -row["score"])[:3]
    scores = shop.views["fused"] @ shop.views["fused"][5]
    others = [n for n in np.argsort(-scores) if n != 5][:3]  # the query itself is a copy
    assert [row["score"] for row in top] == pytest.approx(scores[others])
    assert [row["item_id"] for row in top] == [shop.photos[n] or shop.titles[n] for n in others]
    assert [row["right"] for row in top] == [shop.labels[n] == shop.labels[5] for n in others]


def test_a_task_without_rows_says_nothing(shop):
    question = Question(shop.queries())
    best = {d: np.zeros(ROWS, np.float32) for d in DIRECTIONS}
    assert results(best_scorer(question), []) == []
    assert all((r["above"], r["tied"], r["relevant"]) == (0, 0, 0) for r in results(rank_counter(question, best), []))
    assert results(top_finder(question, 3), []) == []
