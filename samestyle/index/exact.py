"""Exact search by brute force: what recall is measured against, and the way out of narrow filters."""

from collections.abc import Iterable, Iterator

import hnswlib
import numpy as np

BLOCK = 8192


def exact_search(vectors: np.ndarray, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k best rows of `vectors` for each query by inner product, the cosine for unit vectors.

    vectors: (n, dim) float32; queries: (q, dim) float32. Returns labels (q, min(k, n)) int64, which are row
    numbers, and scores of the same shape, float32, best first; of equal scores the smaller label comes first.
    """
    return exact_search_blocks(row_blocks(vectors), queries, k)


def row_blocks(vectors: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(labels, vectors) portions of an array, in order."""
    for start in range(0, len(vectors), BLOCK):
        part = vectors[start : start + BLOCK]
        yield np.arange(start, start + len(part), dtype=np.int64), part


def held_nodes(graph: hnswlib.Index, labels: np.ndarray, block: int = BLOCK) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(labels, vectors) portions of nodes, none deleted: as hnswlib hands them out they take nine times their size."""
    for start in range(0, len(labels), block):
        part = labels[start : start + block]
        yield part, np.asarray(graph.get_items(part), dtype=np.float32)


def exact_search_blocks(
    blocks: Iterable[tuple[np.ndarray, np.ndarray]], queries: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """`exact_search` over portions: (labels (b,) int64 rising, vectors (b, dim) float32)."""
    queries = np.ascontiguousarray(queries, dtype=np.float32)
    labels = np.empty((len(queries), 0), np.int64)
    scores = np.empty((len(queries), 0), np.float32)
    for block_labels, block in blocks:
        found = queries @ np.asarray(block, dtype=np.float32).T
        labels = np.hstack([labels, np.broadcast_to(block_labels, found.shape)])
        labels, scores = best(labels, np.hstack([scores, found]), k)
    return labels, scores


def best(labels: np.ndarray, scores: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k best columns of each row, in order; of equal scores those further left."""
    rows, columns = scores.shape
    k = min(k, columns)
    if k == 0 or rows == 0:
        return labels[:, :k], scores[:, :k]
    worst = np.partition(scores, columns - k, axis=1)[:, columns - k]
    row, column = np.nonzero(scores >= worst[:, None])
    order = np.lexsort((labels[row, column], -scores[row, column], row))
    row, column = row[order], column[order]
    first = np.searchsorted(row, np.arange(rows))
    chosen = first[:, None] + np.arange(k)
    return labels[row[chosen], column[chosen]], scores[row[chosen], column[chosen]]
