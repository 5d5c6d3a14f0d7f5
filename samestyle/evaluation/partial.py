"""Fair ranks over a pool that is searched in parts: first each query's best right answer, then what stands above it.

Both are exact: a maximum of maxima is the maximum, a sum of counts the count. What a part needs is the queries.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from samestyle.evaluation.directions import DIRECTIONS, VIEW_OF, Counts, Ranks, best, count, expected_ranks, present
from samestyle.evaluation.truth import WITHIN, Nodes, Queries, truth

Parts = Iterable[tuple[str, Nodes]]  # the letter of the view that the nodes are of, and some of its nodes
PER_QUERY = ("above", "tied", "relevant")


@dataclass(frozen=True)
class Question:
    """What every part of the pool is asked. copies: truth.WITHIN, BETWEEN or ANNOTATED."""

    queries: Queries
    copies: Sequence[str] = WITHIN
    directions: Sequence[str] = DIRECTIONS

    def scored(self, parts: Parts) -> Iterator[tuple[str, np.ndarray, np.ndarray, np.ndarray]]:
        """(direction, scores, relevant, allowed), the latter (queries, nodes); a query without the view has neither."""
        for letter, nodes in parts:
            for direction in (d for d in self.directions if d[2] == letter):
                asked = self.queries.views[VIEW_OF[direction[0]]]
                relevant, excluded = truth(self.queries, nodes, direction, self.copies)
                allowed = ~excluded & present(asked)[:, None]
                yield direction, asked @ nodes.vectors.T, relevant & allowed, allowed


def best_of_parts(question: Question, parts: Parts) -> dict[str, np.ndarray]:
    """Direction to (queries,) float: the best score of a right answer in these parts, -inf where there is none."""
    found = {direction: np.full(len(question.queries), -np.inf, np.float32) for direction in question.directions}
    for direction, scores, relevant, _ in question.scored(parts):
        found[direction] = np.maximum(found[direction], best(scores, relevant))
    return found


def count_parts(question: Question, parts: Parts, best_scores: dict[str, np.ndarray]) -> dict[str, Counts]:
    """Direction to the counts of these parts. best_scores: best_of_parts of the whole pool."""
    found = {direction: np.zeros((3, len(question.queries)), np.int64) for direction in question.directions}
    for direction, scores, relevant, allowed in question.scored(parts):
        counted = count(scores, relevant, allowed, best_scores[direction])
        found[direction] += np.stack([getattr(counted, name) for name in PER_QUERY])
    return {direction: Counts(*counts) for direction, counts in found.items()}


def ranks_of_parts(best_scores: np.ndarray, counts: Counts) -> Ranks:
    """The ranks of one direction from the whole pool's best scores and counts; queries without an answer left out."""
    rows = np.flatnonzero(np.isfinite(best_scores))
    return expected_ranks(rows, Counts(*(getattr(counts, name)[rows] for name in PER_QUERY)))


def top_of_parts(question: Question, parts: Parts, k: int) -> Iterator[tuple[str, np.ndarray, np.ndarray, np.ndarray]]:
    """(direction, places, scores, relevant), each (queries, <= k): the best nodes of every part, places within it."""
    for direction, scores, relevant, allowed in question.scored(parts):
        scores = np.where(allowed, scores, -np.inf)
        places = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        right = np.take_along_axis(relevant, places, axis=1)
        yield direction, places, np.take_along_axis(scores, places, axis=1), right
