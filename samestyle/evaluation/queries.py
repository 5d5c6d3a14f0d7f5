"""What an index is asked when its recall is measured, and the slices that the answers are looked at in."""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from samestyle.evaluation.recall import Proportion, proportion, smallest_ef
from samestyle.index.nodes import TIE

# An indexed vector moved by a random step; the vector of a clicked item; that of a content the index does not hold.
PERTURBED, CLICKED, HELD_OUT = "perturbed", "clicked", "held out"
# A category with fewer queries says nothing.
SLICE_QUERIES = 5
Search = Callable[[np.ndarray, int], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Queries:
    """vectors: (queries, dim) float32, unit. Of each its kind, and its category, `/`-joined, None where unknown."""

    vectors: np.ndarray
    kinds: tuple[str, ...]
    categories: tuple[str | None, ...]

    def __len__(self) -> int:
        return len(self.kinds)

    def scores(self, search: Search, k: int) -> np.ndarray:
        """The k best cosines a query, (queries, k) float32, best first, -inf where there are fewer.

        search: (vectors, k) to labels and cosines. A clicked item is searched for as serving does it: one more is
        asked for, and the item's own node left out, which would be found too easily.
        """
        clicked = np.array([kind == CLICKED for kind in self.kinds], dtype=bool)
        found = np.empty((len(self), k), np.float32)
        if not clicked.all():
            found[~clicked] = padded(search(self.vectors[~clicked], k)[1], k)
        if clicked.any():
            scores = padded(search(self.vectors[clicked], k + 1)[1], k + 1)
            found[clicked] = np.where(scores[:, :1] >= 1 - TIE, scores[:, 1:], scores[:, :k])
        return found

    def spread(self, most: int) -> list[int]:
        """At most so many places, evenly over all queries."""
        return sorted({round(place) for place in np.linspace(0, len(self) - 1, num=min(most, len(self)))})

    def slices(self) -> Iterator[tuple[str, str, np.ndarray]]:
        """(queries or category, its name, places of its queries): kinds, and categories with enough, at all levels."""
        for kind in dict.fromkeys(self.kinds):
            yield "queries", kind, np.flatnonzero([kind == own for own in self.kinds])
        places = defaultdict(list)
        for place, category in enumerate(self.categories):
            parts = category.split("/") if category else []
            for level in range(1, len(parts) + 1):
                places["/".join(parts[:level])].append(place)
        for name in sorted(name for name, own in places.items() if len(own) >= SLICE_QUERIES):
            yield "category", name, np.array(places[name])


def padded(scores: np.ndarray, width: int) -> np.ndarray:
    """(queries, width or less) filled up with -inf."""
    return np.pad(scores, ((0, 0), (0, width - scores.shape[1])), constant_values=-np.inf)


def query_seed(data: str, seed: int) -> int:
    """Other data, other queries; the same data and seed, the same ones. data: a digest. Fits a signed long."""
    return int(hashlib.sha256(f"{seed} {data}".encode()).hexdigest()[:15], 16)


@dataclass(frozen=True)
class Measurement:
    """recall@k of one index.

    data: the digest of what it was measured on. recalls: ef -> (queries,), over all shards together. shards: ef ->
    shard number -> the mean over the queries of the shard's recall of its own k best. compared: ef -> vectors that a
    query is compared with in all shards together, the mean of a few.
    """

    data: str
    queries: Queries
    recalls: dict[int, np.ndarray]
    shards: dict[int, dict[int, float]]
    compared: dict[int, float]

    def curve(self) -> dict[int, Proportion]:
        return {ef: proportion(values) for ef, values in self.recalls.items()}

    def ef(self, target: float) -> int:
        """The smallest ef_search whose recall's lower bound passes the target."""
        return smallest_ef(self.curve(), target)

    def slices(self, ef: int) -> Iterator[tuple[str, str, Proportion]]:
        """(queries or category, its name, recall at this ef), with intervals that hold for all slices together."""
        slices = list(self.queries.slices())
        for kind, name, places in slices:
            yield kind, name, proportion(self.recalls[ef][places], looks=len(slices))
