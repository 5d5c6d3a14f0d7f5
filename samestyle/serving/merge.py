"""From the nodes that the shards found to the items that are shown: best first, capped, without the excluded."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from operator import itemgetter

import numpy as np

from samestyle.index.nodes import TIE
from samestyle.serving.items import ELSEWHERE, SEVERAL, ItemFile, Selection
from samestyle.serving.shards import Hit, LoadedShard, Wish

MAX_K = 10_000
# Further nodes that are asked for at first where suppliers are excluded or capped; then so many times more.
SPARE = 16
GROWTH = 4
# A named tuple's own __new__ is a function of Python.
made = tuple.__new__
# A node that was found: its cosine, whose it is, and the rows of its items that may be shown.
Node = tuple[float, ItemFile, memoryview]
# A shard, which of its items may be shown, and what it found for one query: labels and cosines.
Part = tuple[LoadedShard, Selection, np.ndarray, np.ndarray]


def search_plainly(shards: Sequence[LoadedShard], query: np.ndarray, k: int, items_per_node: int) -> list[Hit] | None:
    """What most searches are: one query of length 1, one shard, nothing filtered or left out. None for any other.

    While a graph is searched nearly all else leaves the processor's cache: what counts here is to touch little.
    """
    if len(shards) != 1 or not 1 <= k <= MAX_K:
        return None
    items, places, graph = shards[0].items, shards[0].places, shards[0].graph
    if getattr(query, "shape", None) != (graph.dim,) or not -TIE < float(query.dot(query)) - 1 < TIE:
        return None
    try:
        labels, distances = graph.knn_query(query, k=k, num_threads=1)
    except RuntimeError:  # fewer than k nodes
        return None
    ids, hits, before, tied = items.ids, list[Hit](), -math.inf, False
    for label, distance in zip(labels.tolist()[0], distances.tolist()[0], strict=True):
        if distance - before < TIE:
            tied = True
        before, row = distance, places[label]
        if row >= 0:
            hits.append(made(Hit, (ids[row], 1 - distance, items, row)))
        elif row == ELSEWHERE:
            return None
        else:
            first, count = divmod(~row, SEVERAL)
            rows = range(first, first + min(count, items_per_node))
            hits += [made(Hit, (ids[row], 1 - distance, items, row)) for row in rows]
    if tied:
        hits.sort(key=in_order)
    return hits[:k]


def search_shards(shards: Sequence[LoadedShard], queries: np.ndarray, wish: Wish) -> list[list[Hit]]:
    """For each of the queries, (q, dim) float32 of length 1, the hits of all shards, best first."""
    # an excluded item can use up at most one node
    fetch = wish.k + len(wish.exclude_items) + (SPARE if wish.exclude_suppliers or wish.items_per_supplier else 0)
    chosen = [(shard, shard.items.passing(wish.where)) for shard in shards]
    found = [(shard, passing, *shard.nearest(queries, fetch, passing)) for shard, passing in chosen]
    answers = []
    for q in range(len(queries)):
        parts = [(shard, passing, labels[q], scores[q]) for shard, passing, labels, scores in found]
        answers.append(answer(queries[q : q + 1], wish, fetch, parts))
    return answers


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
        hits.sort(key=in_order)
    if tied and several:
        hits = capped(hits, wish.items_per_node, lambda hit: hit.node_key)
    if wish.items_per_supplier:
        hits = capped(hits, wish.items_per_supplier, lambda hit: hit.supplier_id)
    return hits[: wish.k]


def in_order(hit: Hit) -> tuple[float, str]:
    """Best first, equal scores by item id."""
    return -hit.score, hit.item_id


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
