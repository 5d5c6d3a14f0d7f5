"""Which pool rows answer a query, and which are no test of an encoder, in each direction.

A pool is searched by nodes, as an index is: rows that show the same photo, title or both are one node. A node that
shows what the query shows is a copy: finding it again tests nothing, so that it takes no part. Between a photo and a
title nothing is the same, and the query's own product is a right answer.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from samestyle.evaluation.directions import DIRECTIONS, VIEW_OF, Measured, present, ranks

SHOWN = {"i": ("photo",), "t": ("title",), "m": ("photo", "title")}
# What counts as the same: within one catalogue, equal photos and equal titles. Where query and pool come from
# different hands, equal titles are two people's words for one product; a photo with equal bytes is a copy anywhere.
WITHIN, BETWEEN, ANNOTATED = ("photo", "title"), ("photo",), ()
Labels = Sequence[Iterable[str]]
Keys = Sequence[str | None]


@dataclass(frozen=True)
class Queries:
    """A row a query. `wanted`: the labels that make a node a right answer; `own`: the label of the query's product.

    photos, titles: digest, or text, of what the query shows; None where it has none. views: "image", "text", "fused" to
    (queries, dim) float32, zero where missing.
    """

    ids: Sequence[str]
    wanted: Labels
    own: Keys
    photos: Keys
    titles: Keys
    views: dict[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Nodes:
    """One view of a pool, or a part of it. `labels`: those of all rows that the node stands for; vectors (n, dim)."""

    labels: Labels
    photos: Keys
    titles: Keys
    vectors: np.ndarray

    def __len__(self) -> int:
        return len(self.vectors)


def truth(
    queries: Queries, nodes: Nodes, direction: str, copies: Sequence[str] = WITHIN
) -> tuple[np.ndarray, np.ndarray]:
    """(relevant, excluded), each (queries, nodes) bool. copies: WITHIN, BETWEEN or ANNOTATED.

    An annotated pair is right even where both show the same photo; there, only the query's own product is left out.
    """
    shown = [part for part in SHOWN[direction[0]] if part in SHOWN[direction[2]]]
    relevant = marked(queries.wanted, nodes.labels)
    own = marked([() if own is None else (own,) for own in queries.own], nodes.labels)
    if not shown:
        return relevant | own, np.zeros_like(own)
    return relevant, (own & ~relevant) | same(queries, nodes, [part for part in shown if part in copies])


def same(queries: Queries, nodes: Nodes, parts: Sequence[str]) -> np.ndarray:
    """(queries, nodes) bool: all these parts are equal, and at least one of them is there."""
    equal = np.full((len(queries), len(nodes)), bool(parts))
    there = np.zeros(len(queries), bool)
    for part in parts:
        asked: Keys = getattr(queries, f"{part}s")
        codes = {key: code for code, key in enumerate(dict.fromkeys(asked))}
        found = np.array([codes.get(key, -1) for key in getattr(nodes, f"{part}s")], np.int64)
        equal &= np.array([codes[key] for key in asked], np.int64)[:, None] == found
        there |= np.array([key is not None for key in asked], bool)
    return equal & there[:, None]


def marked(wanted: Labels, labels: Labels) -> np.ndarray:
    """(queries, nodes) bool: does the node have one of the query's labels?"""
    places: dict[str, list[int]] = {}
    for place, names in enumerate(labels):
        for name in names:
            places.setdefault(name, []).append(place)
    result = np.zeros((len(wanted), len(labels)), bool)
    for row, names in enumerate(wanted):
        for name in names:
            result[row, places.get(name, [])] = True
    return result


@dataclass(frozen=True)
class Products:
    """A row a product, of a set that fits in memory; `labels` None: a distractor. views as in Queries."""

    ids: Sequence[str]
    labels: Keys
    photos: Keys
    titles: Keys
    views: dict[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, rows: np.ndarray) -> "Products":
        columns = (self.labels, self.photos, self.titles)
        labels, photos, titles = ([values[row] for row in rows] for values in columns)
        views = {view: vectors[rows] for view, vectors in self.views.items()}
        return Products([self.ids[row] for row in rows], labels, photos, titles, views)

    def queries(self) -> Queries:
        """All that have a label, each wanting those of its own."""
        part = self.take(np.flatnonzero([label is not None for label in self.labels]))
        wanted = [(label,) for label in part.labels if label is not None]
        return Queries(part.ids, wanted, [None] * len(part), part.photos, part.titles, part.views)

    def nodes(self, letter: str) -> Nodes:
        """Those that have the view i, t or m, one node for all that show the same."""
        vectors = self.views[VIEW_OF[letter]]
        members: dict[tuple[str | None, ...], list[int]] = {}
        for row in np.flatnonzero(present(vectors)):
            shown = tuple(getattr(self, f"{part}s")[row] for part in SHOWN[letter])
            members.setdefault(shown, []).append(int(row))
        first = [rows[0] for rows in members.values()]
        labels = [{label for row in rows if (label := self.labels[row]) is not None} for rows in members.values()]
        # A node shows a part only where its view does: two rows with one photo may have two titles.
        photos = [self.photos[row] if "photo" in SHOWN[letter] else None for row in first]
        titles = [self.titles[row] if "title" in SHOWN[letter] else None for row in first]
        return Nodes(labels, photos, titles, vectors[first])


def search(
    queries: Queries, pool: Products, directions: Sequence[str] = DIRECTIONS, copies: Sequence[str] = WITHIN
) -> dict[str, Measured]:
    """Search a pool in memory in each direction."""
    result = {}
    for direction in directions:
        nodes = pool.nodes(direction[2])
        asked = queries.views[VIEW_OF[direction[0]]]
        result[direction] = Measured(ranks(asked, nodes.vectors, *truth(queries, nodes, direction, copies)), len(nodes))
    return result
