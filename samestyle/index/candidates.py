"""A shard's candidates for lists of neighbours: near nodes, and more where one supplier's copies crowd them."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from samestyle.index.shard import OpenShard

# A crowded query is asked again with so many times more nodes.
GROWTH = 4
# Near queries are told by which pivot is nearest: one for so many nodes, as a core's cache holds a few hundred. More of
# them would take longer than what their order saves.
PIVOT_NODES, PIVOTS_MAX = 50, 1024
# Queries that are searched at a time: each may find thousands of nodes.
PORTION = 1024


@dataclass(frozen=True)
class Reach:
    """How far a shard is searched for a query. The default is plain search for the `nodes` nearest.

    ef: of the search; None: exact. floor: the lowest cosine that is of use. A query is crowded, and asks for more
    nodes, up to `most`, while even the last one found is above the floor, but fewer than `varied` nodes are left when
    those beyond `per_supplier` of one supplier do not count. members: most items of one node that are named; None: all.
    """

    nodes: int
    ef: int | None
    floor: float = -1.0
    most: int = 0
    varied: int = 0
    per_supplier: int = 1
    members: int | None = None


@dataclass(frozen=True)
class Candidates:
    """Flat, in no order: rows of the queries (int64), labels (int64) and cosines (float32) of the nodes found."""

    queries: np.ndarray
    labels: np.ndarray
    scores: np.ndarray


class CandidateShard:
    """A shard with what the search for candidates needs: items of a node in turns, and each node's supplier."""

    def __init__(self, shard: OpenShard) -> None:
        self.shard = shard
        self.items = in_turns(shard.items)
        codes = supplier_codes(self.items)
        self.suppliers = codes[np.minimum(shard.first_row[:-1], len(codes) - 1)]
        living = self.suppliers[shard.living]
        self.known_suppliers = len(np.unique(living[living >= 0]))
        self.unknown = bool((living < 0).any())

    def find(self, queries: np.ndarray, reach: Reach) -> Iterator[Candidates]:
        """What near queries find, some of them at a time. queries: (q, dim) float32 of length 1."""
        order = near_together(queries, min(PIVOTS_MAX, self.shard.nodes // PIVOT_NODES))
        for start in range(0, len(order), PORTION):
            yield self._found(queries, order[start : start + PORTION], reach)

    def rows_of(self, found: Candidates, members: int | None) -> tuple[np.ndarray, np.ndarray]:
        """(place among the candidates, row of `items`) of each item, at most `members` a node, its first one first."""
        first = self.shard.first_row
        counts = first[found.labels + 1] - first[found.labels]
        if members is not None:
            counts = np.minimum(counts, members)
        places = np.repeat(np.arange(len(counts)), counts)
        within = np.arange(len(places)) - np.repeat(np.cumsum(counts) - counts, counts)
        return places, first[found.labels][places] + within

    def _found(self, queries: np.ndarray, waiting: np.ndarray, reach: Reach) -> Candidates:
        """waiting: rows of the queries to search for."""
        nodes, parts = reach.nodes, []
        while len(waiting):
            labels, scores = self._nearest(queries[waiting], nodes, reach.ef)
            deeper = self._crowded(labels, scores, reach) if nodes < min(reach.most, len(self.shard.living)) else None
            done = slice(None) if deeper is None else ~deeper
            parts.append(flattened(waiting[done], labels[done], scores[done], reach.floor))
            waiting, nodes = waiting[:0] if deeper is None else waiting[deeper], min(GROWTH * nodes, reach.most)
        return joined(parts)

    def _nearest(self, queries: np.ndarray, nodes: int, ef: int | None) -> tuple[np.ndarray, np.ndarray]:
        if ef is None:
            return self.shard.search_exactly(queries, nodes)
        return self.shard.search(queries, nodes, ef)

    def _crowded(self, labels: np.ndarray, scores: np.ndarray, reach: Reach) -> np.ndarray:
        """(queries,) bool. A node counts as its first item's supplier; an unknown supplier is one of its own."""
        least = reach.varied if self.unknown else min(reach.varied, reach.per_supplier * self.known_suppliers)
        crowded = scores[:, -1] >= reach.floor
        crowded[crowded] = varied(self.suppliers[labels[crowded]], reach.per_supplier) < least
        return crowded


def near_together(queries: np.ndarray, pivots: int) -> np.ndarray:
    """The queries, (q,) int64, in an order in which near ones follow each other. queries: (q, dim) float32.

    They read the same part of a graph, which the one after then finds in the processor's cache. pivots: about so many
    of the queries tell which are near.
    """
    if pivots == 0 or len(queries) == 0:
        return np.arange(len(queries))
    chosen = queries[:: max(1, len(queries) // pivots)]
    return np.argsort((queries @ chosen.T).argmax(axis=1), kind="stable")


def varied(suppliers: np.ndarray, most: int) -> np.ndarray:
    """How many of each row count, if at most `most` of one supplier do. suppliers: (queries, nodes), below 0: unknown.

    >>> varied(np.array([[5, 5, 5, 7], [5, 6, -1, -1]]), 2)
    array([3, 4])
    """
    columns = np.arange(suppliers.shape[1])
    ordered = np.sort(np.where(suppliers < 0, -1 - columns, suppliers), axis=1)
    starts = np.where(np.diff(ordered, axis=1, prepend=ordered[:, :1] - 1) != 0, columns, 0)
    return (columns - np.maximum.accumulate(starts, axis=1) < most).sum(axis=1)


def in_turns(items: pa.Table) -> pa.Table:
    """A node's items in turns: the first of each supplier before the second of any, so that a cut keeps all suppliers.

    items: ordered by (label, item_id), and so again within a turn. An unknown supplier's items are all first ones.
    """
    labels, codes = items["label"].to_numpy(), supplier_codes(items)
    order = np.lexsort((codes, labels))
    same = (np.diff(labels[order], prepend=-1) == 0) & (np.diff(codes[order], prepend=-2) == 0) & (codes[order] >= 0)
    places = np.arange(len(order))
    turns = np.empty(len(order), np.int64)
    turns[order] = places - np.maximum.accumulate(np.where(same, 0, places))
    return items.take(pa.array(np.lexsort((turns, labels))))


def supplier_codes(items: pa.Table) -> np.ndarray:
    """A number a supplier, (rows,) int64; -1: unknown."""
    coded = items["supplier_id"].combine_chunks().dictionary_encode()
    indices = coded.indices if isinstance(coded, pa.DictionaryArray) else pa.array([], pa.int32())
    return pc.fill_null(indices, -1).to_numpy(zero_copy_only=False).astype(np.int64)


def flattened(queries: np.ndarray, labels: np.ndarray, scores: np.ndarray, floor: float) -> Candidates:
    row, column = np.nonzero(scores >= floor)
    return Candidates(queries[row], labels[row, column], scores[row, column])


def joined(parts: list[Candidates]) -> Candidates:
    if len(parts) == 1:
        return parts[0]
    queries = np.concatenate([np.empty(0, np.int64), *(part.queries for part in parts)])
    labels = np.concatenate([np.empty(0, np.int64), *(part.labels for part in parts)])
    scores = np.concatenate([np.empty(0, np.float32), *(part.scores for part in parts)])
    return Candidates(queries, labels, scores)
