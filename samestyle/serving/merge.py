"""From the nodes that the shards found to the items that are shown: best first, capped, without the excluded."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import repeat
from operator import itemgetter, sub

import numpy as np

from samestyle.index.nodes import TIE
from samestyle.serving.items import ItemFile, Selection
from samestyle.serving.shards import Hit, LoadedShard, Wish

# Further nodes that are asked for at first where suppliers are excluded or capped; then so many times more.
SPARE = 16
GROWTH = 4
# A node that was found: its cosine, whose it is, and the rows of its items that may be shown.
Node = tuple[float, ItemFile, memoryview]
# A shard, which of its items may be shown, and what it found for one query: labels and cosines.
Part = tuple[LoadedShard, Selection, np.ndarray, np.ndarray]


def search_shards(shards: Sequence[LoadedShard], queries: np.ndarray, wish: Wish) -> list[list[Hit]]:
    """For each of the queries, (q, dim) float32 of length 1, the hits of all shards, best first."""
    if len(shards) == 1 and not (wish.exclude_items or wish.exclude_suppliers or wish.items_per_supplier):
        return search_one(shards[0], queries, wish)
    # an excluded item can use up at most one node
    fetch = wish.k + len(wish.exclude_items) + (SPARE if wish.exclude_suppliers or wish.items_per_supplier else 0)
    chosen = [(shard, shard.items.passing(wish.where)) for shard in shards]
    found = [(shard, passing, *shard.nearest(queries, fetch, passing)) for shard, passing in chosen]
    answers = []
    for q in range(len(queries)):
        parts = [(shard, passing, labels[q], scores[q]) for shard, passing, labels, scores in found]
        answers.append(answer(queries[q : q + 1], wish, fetch, parts))
    return answers


def search_one(shard: LoadedShard, queries: np.ndarray, wish: Wish) -> list[list[Hit]]:
    """One shard, nothing to leave out: what most searches are."""
    passing = shard.items.passing(wish.where)
    labels, scores = shard.nearest(queries, wish.k, passing)
    return [
        hits_in_order(shard.items, passing, labels[q], scores[q], wish)
        or answer(queries[q : q + 1], wish, wish.k, [(shard, passing, labels[q], scores[q])])
        for q in range(len(queries))
    ]


def hits_in_order(
    items: ItemFile, passing: Selection, labels: np.ndarray, scores: np.ndarray, wish: Wish
) -> list[Hit] | None:
    """The items of these nodes as they come; None where that is no answer, as two nodes have equal scores.

    After a search of a graph little of what Python needs is still in the processor's cache: few steps in few loops.
    """
    if len(labels) < 2:
        return None
    rows, near = passing.only.take(labels).tolist(), scores.tolist()
    if min(map(sub, near, near[1:])) < TIE:
        return None
    if min(rows) < 0:
        rows, near = members(passing, labels.tolist(), near, wish)
        if len(rows) < min(wish.k, len(labels)):
            return None
    return list(map(Hit, itemgetter(*rows)(items.ids), near, repeat(items), rows))


def members(passing: Selection, labels: list[int], scores: list[float], wish: Wish) -> tuple[list[int], list[float]]:
    """The first k items of these nodes: their rows, and their scores."""
    starts, rows = passing.views
    found = [
        (row, score)
        for label, score in zip(labels, scores, strict=True)
        for row in rows[starts[label] : starts[label + 1]][: wish.items_per_node]
    ][: wish.k]
    return [row for row, _ in found], [score for _, score in found]


def answer(query: np.ndarray, wish: Wish, fetch: int, parts: list[Part]) -> list[Hit]:
    """The hits of one query, (1, dim); asks for more nodes while fewer than k items are left of the best `fetch`."""
    while True:
        whole = all(len(labels) < fetch for _, _, labels, _ in parts)
        nodes = [node for part in parts for node in nodes_of(*part)]
        if len(parts) > 1:
            nodes.sort(key=itemgetter(0), reverse=True)
        hits = pick(nodes if whole else nodes[:fetch], wish, len(parts) > 1)
        if whole or len(hits) == wish.k:
            return hits
        fetch *= GROWTH
        again = [(shard, passing, shard.nearest(query, fetch, passing)) for shard, passing, _, _ in parts]
        parts = [(shard, passing, labels[0], scores[0]) for shard, passing, (labels, scores) in again]


def nodes_of(shard: LoadedShard, passing: Selection, labels: np.ndarray, scores: np.ndarray) -> list[Node]:
    starts, rows = passing.views
    return [
        (score, shard.items, rows[starts[label] : starts[label + 1]])
        for label, score in zip(labels.tolist(), scores.tolist(), strict=True)
    ]


def pick(nodes: list[Node], wish: Wish, several: bool) -> list[Hit]:
    """The first k items, equal scores by item id; `several`: a node may stand in several shards, with equal scores."""
    hits: list[Hit] = []
    excludes = wish.exclude_items or wish.exclude_suppliers
    tied, before = False, math.inf
    for score, items, rows in nodes:
        if before - score < TIE:
            tied = True
        elif len(hits) >= wish.k and not tied and not wish.items_per_supplier:
            break
        before = score
        shown = [row for row in rows if may_show(items, row, wish)] if excludes else rows
        for row in shown[: wish.items_per_node]:
            hits.append(Hit(items.ids[row], score, items, row))
    if tied:
        hits.sort(key=lambda hit: (-hit.score, hit.item_id))
    if tied and several:
        hits = capped(hits, wish.items_per_node, lambda hit: hit.node_key)
    if wish.items_per_supplier:
        hits = capped(hits, wish.items_per_supplier, lambda hit: hit.supplier_id)
    return hits[: wish.k]


def may_show(items: ItemFile, row: int, wish: Wish) -> bool:
    return items.ids[row] not in wish.exclude_items and items.suppliers[row] not in wish.exclude_suppliers


def capped(hits: list[Hit], most: int, key: Callable[[Hit], str | None]) -> list[Hit]:
    """The hits without those beyond the `most` of a key; None is no key."""
    seen: Counter[str | None] = Counter()
    kept = []
    for hit in hits:
        name = key(hit)
        seen[name] += 1
        if name is None or seen[name] <= most:
            kept.append(hit)
    return kept
