"""What is kept of an evaluation, and what two of them say when they are laid side by side."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from samestyle.errors import IntegrityError
from samestyle.evaluation.comparison import changes, compare
from samestyle.evaluation.directions import KS, Measured, Ranks
from samestyle.evaluation.records import (
    RESULTS,
    SetResult,
    evaluation_name,
    evaluation_record,
    read_results,
    results_bytes,
)


def result(name, digest, reciprocal, slices=None, rows=None, directions=("m-m",)):
    reciprocal = np.array(reciprocal, float)
    rows = np.arange(len(reciprocal)) if rows is None else np.array(rows)
    ranks = Ranks(rows, reciprocal, {k: (reciprocal >= 1 / k).astype(float) for k in KS})
    asked = int(rows.max(initial=-1)) + 1
    ids, named = [f"q{n}" for n in range(asked)], slices or [None] * asked
    return SetResult(name, f"about {name}", digest, ids, named, {d: Measured(ranks, 40) for d in directions})


def test_figures_slices_and_the_mean_over_sets():
    style = result("style", "a", [1, 0.5, 0.25, 0.1], ["Shoes", "Shoes", "Bags", "Bags"], rows=[0, 1, 2, 3])
    pairs = result("pairs", "b", [1, 1], directions=("m-m", "i-i"))
    record = evaluation_record("name", "e1", "2026-01-01", [style, pairs], resamples=100)
    figures = record["sets"]["style"]["directions"]["m-m"]
    assert (figures["mrr"], figures["recall@1"], figures["recall@5"]) == (0.4625, 0.25, 0.75)
    assert (figures["queries"], figures["pool"]) == (4, 40)
    assert figures["intervals"]["mrr"][0] < 0.4625 < figures["intervals"]["mrr"][1]
    slices = record["sets"]["style"]["slices"]
    assert {name: (one["m-m"]["mrr"], one["m-m"]["queries"]) for name, one in slices.items()} == {
        "Shoes": (0.75, 2),
        "Bags": (0.175, 2),
    }
    assert record["sets"]["pairs"]["slices"] == {}
    # Each set counts once, although one has twice the queries; i-i was measured on one set alone.
    assert record["mean"]["m-m"]["mrr"] == pytest.approx((0.4625 + 1) / 2)
    assert (record["mean"]["m-m"]["queries"], record["mean"]["i-i"]["mrr"]) == (6, 1)
    assert json.loads(json.dumps(record, allow_nan=False)) == record


def test_a_direction_without_queries_is_left_out():
    record = evaluation_record("name", "e1", "2026-01-01", [result("style", "a", [])], resamples=100)
    assert record["sets"]["style"]["directions"] == {} == record["mean"]


def test_evaluations_have_one_name_where_they_can_be_compared():
    ours = [result("style", "a", [1]), result("pairs", "b", [1])]
    theirs = [result("style", "a", [0.5]), result("pairs", "b", [0.5])]
    other = [result("style", "a", [1]), result("pairs", "c", [1])]
    assert evaluation_name(ours) == evaluation_name(theirs) != evaluation_name(other)
    assert evaluation_name(ours).startswith("style-pairs-")


def test_results_come_back_as_they_were():
    kept = results_bytes([result("style", "a", [1, 0.5], rows=[0, 2])])
    table = read_results(kept)
    assert table.schema == RESULTS
    assert table["query_id"].to_pylist() == ["q0", "q2"]
    assert table["recall@1"].to_pylist() == [1, 0]


@pytest.mark.parametrize("columns", [None, {"set": ["style"]}])
def test_other_bytes_are_refused(columns, tmp_path):
    data = b"no parquet"
    if columns:
        pq.write_table(pa.table(columns), tmp_path / "other.parquet")
        data = (tmp_path / "other.parquet").read_bytes()
    with pytest.raises(IntegrityError, match=r"expected the columns set, direction, query_id, mrr.*evaluate_encoder"):
        read_results(data)


def test_two_encoders_side_by_side():
    first = result("style", "a", [0.5, 0.5, 1, 0.1] * 25).rows()
    second = result("style", "a", [1, 0.5, 1, 0.2] * 25).rows()
    same, better = compare(first, first), compare(first, second, ("mrr",))
    assert {line.verdict for line in same} == {"no clear difference"}
    line = better[0]
    assert (line.set, line.direction, line.queries, line.verdict) == ("style", "m-m", 100, "better")
    assert (line.first, line.second, line.difference.mean) == pytest.approx((0.525, 0.675, 0.15))
    assert 0 < line.difference.low < 0.15 < line.difference.high
    assert compare(second, first, ("mrr",))[0].verdict == "worse"
    # By query, not by place: the rows of one of them may stand in another order, and queries may be missing.
    shuffled = second.take(np.random.default_rng(0).permutation(100)[:60])
    assert compare(second, shuffled, ("mrr",))[0].difference.mean == 0
    assert compare(second, shuffled, ("mrr",))[0].queries == 60


def test_wins_first_and_losses_last():
    first, second = (result("style", "a", ranks).rows() for ranks in ([0.5, 0.5, 1, 0.5], [1, 0.5, 0.25, 0.6]))
    found = [(one.query_id, one.second - one.first) for one in changes(first, second, "style", "m-m")]
    assert found == [("q0", 0.5), ("q3", pytest.approx(0.1)), ("q2", -0.75)]
