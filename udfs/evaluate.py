"""Rank a pool on executors: every task asks its part of the pool the same sampled queries."""

from collections.abc import Callable, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from samestyle.evaluation.partial import Question, best_of_parts, count_parts, top_of_parts
from samestyle.evaluation.truth import Nodes

ArrowFunction = Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]


def best_scorer(question: Question) -> ArrowFunction:
    """For mapInArrow over nodes (view, photo, title, labels, vector) -> direction, query, best; a task's own best."""

    def score(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for direction, best in best_of_parts(question, parts(batches)).items():
            rows = np.flatnonzero(np.isfinite(best))
            columns = [pa.array([direction] * len(rows), pa.string()), pa.array(rows, pa.int32()), pa.array(best[rows])]
            yield pa.RecordBatch.from_arrays(columns, names=["direction", "query", "best"])

    return score


def rank_counter(question: Question, best: dict[str, np.ndarray]) -> ArrowFunction:
    """For mapInArrow over the same nodes -> direction, query, above, tied, relevant; sums over the tasks are the
    pool's. best: direction to (queries,) the whole pool's best score of a right answer."""

    def count(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for direction, counts in count_parts(question, parts(batches), best).items():
            rows = np.flatnonzero(np.isfinite(best[direction]))
            columns = [pa.array([direction] * len(rows), pa.string()), pa.array(rows, pa.int32())]
            columns += [pa.array(values[rows]) for values in (counts.above, counts.tied, counts.relevant)]
            yield pa.RecordBatch.from_arrays(columns, names=["direction", "query", "above", "tied", "relevant"])

    return count


def top_finder(question: Question, k: int) -> ArrowFunction:
    """For mapInArrow over the same nodes with item_id -> direction, query, item_id, score, right: each batch's best."""

    def find(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for letter, chosen in by_view(batch):
                for direction, places, scores, right in top_of_parts(question, [(letter, nodes(chosen))], k):
                    yield top_batch(direction, chosen.column("item_id"), places, scores, right)

    return find


def parts(batches: Iterator[pa.RecordBatch]) -> Iterator[tuple[str, Nodes]]:
    for batch in batches:
        for letter, chosen in by_view(batch):
            yield letter, nodes(chosen)


def by_view(batch: pa.RecordBatch) -> Iterator[tuple[str, pa.RecordBatch]]:
    """The rows of each view."""
    for letter in pc.unique(batch.column("view")).to_pylist():
        yield letter, batch.filter(pc.equal(batch.column("view"), letter))


def nodes(batch: pa.RecordBatch) -> Nodes:
    labels, photos, titles = (batch.column(name).to_pylist() for name in ("labels", "photo", "title"))
    vectors = batch.column("vector").flatten().to_numpy(zero_copy_only=False)
    return Nodes(labels, photos, titles, vectors.astype(np.float32).reshape(batch.num_rows, -1))


def top_batch(
    direction: str, ids: pa.Array, places: np.ndarray, scores: np.ndarray, right: np.ndarray
) -> pa.RecordBatch:
    real = np.isfinite(scores)
    queries = np.nonzero(real)[0]
    columns = [
        pa.array([direction] * len(queries), pa.string()),
        pa.array(queries, pa.int32()),
        ids.take(pa.array(places[real])),
        pa.array(scores[real].astype(np.float32)),
        pa.array(right[real]),
    ]
    return pa.RecordBatch.from_arrays(columns, names=["direction", "query", "item_id", "score", "right"])
