"""What a search costs and what it finds: shards searched at several ef_search, against exact search."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from samestyle.evaluation.recall import Proportion, proportion, recalls
from samestyle.index.shard import OpenShard


@dataclass(frozen=True)
class Effort:
    """One ef_search: the recall@k that it gives, and the milliseconds of one core that a query takes."""

    ef: int
    recall: Proportion
    ms: float


def trade_off(shards: Sequence[OpenShard], queries: np.ndarray, k: int, efs: Sequence[int]) -> list[Effort]:
    """Every ef, smallest first. queries: (q, dim) float32 of length 1. All shards are searched, as serving does."""
    exact = merged([shard.search_exactly(queries, k)[1] for shard in shards], k)
    efforts = []
    for ef in sorted(efs):
        started = time.thread_time()  # not of the clock: other programs may have the cores
        scores = [shard.search(queries, k, ef)[1] for shard in shards]
        seconds = time.thread_time() - started
        efforts.append(Effort(ef, proportion(recalls(merged(scores, k), exact)), 1000 * seconds / len(queries)))
    return efforts


def merged(scores: Sequence[np.ndarray], k: int) -> np.ndarray:
    """The k best of all shards for each query, (q, k), best first; -inf where there are fewer."""
    both = np.hstack([*scores, np.full((len(scores[0]), k), -np.inf, np.float32)])
    return -np.sort(-both, axis=1)[:, :k]


def homes(shards: Sequence[OpenShard], queries: np.ndarray, k: int) -> np.ndarray:
    """In which shard each true neighbour lies: (q, k) places in `shards`; k at most the nodes of all shards."""
    found = [shard.search_exactly(queries, k)[1] for shard in shards]
    owners = np.concatenate([np.full(part.shape[1], place) for place, part in enumerate(found)])
    return owners[np.argsort(-np.hstack(found), axis=1, kind="stable")[:, :k]]


def found_items(shards: Sequence[OpenShard], query: np.ndarray, k: int, ef: int | None) -> list[tuple[str, float]]:
    """Item and cosine of the k nearest nodes, a living member of each, best first; ef None: by exact search.

    query: (dim,) float32 of length 1.
    """
    found = []
    for shard in shards:
        search = shard.search_exactly(query[None], k) if ef is None else shard.search(query[None], k, ef)
        found += [
            (living_member(shard, int(label)), float(score))
            for label, score in zip(search[0][0], search[1][0], strict=True)
        ]
    return sorted(found, key=lambda one: (-one[1], one[0]))[:k]


def living_member(shard: OpenShard, label: int) -> str:
    """The first item of a living node that is not withdrawn."""
    rows = shard.members(label)
    members = shard.items.slice(rows.start, rows.stop - rows.start)
    return members.filter(members["alive"])["item_id"][0].as_py()


def hardest(shards: Sequence[OpenShard], queries: np.ndarray, k: int, ef: int) -> int:
    """The query whose search at this ef misses most of its true neighbours; the first of several."""
    exact, found = (
        merged([search(shard)[1] for shard in shards], k)
        for search in (lambda shard: shard.search_exactly(queries, k), lambda shard: shard.search(queries, k, ef))
    )
    return int(np.argmin(recalls(found, exact)))
