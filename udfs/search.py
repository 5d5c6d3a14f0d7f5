"""Search shards on executors: a task opens its shard once, and answers every query that comes."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from samestyle.evaluation.recall import EXACT
from samestyle.index.shard import OpenShard, open_shard
from samestyle.release.manifest import PlacedShard
from samestyle.release.store import Store

ArrowFunction = Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]
CANDIDATE = pa.schema(
    [("index", pa.int32())]
    + [(name, pa.string()) for name in ("query_id", "item_id", "supplier_id", "category")]
    + [("score", pa.float32())]
)


def vector_sampler(shards: Sequence[PlacedShard], store: Store, sample: int, seed: int) -> ArrowFunction:
    """For mapInArrow over rows of shard numbers: about `sample` vectors an index, each shard giving its share.

    Small shards give a vector several times over: a small index is measured with as many queries as a large one.
    """
    totals: dict[int, int] = {}
    for one in shards:
        totals[one.index] = totals.get(one.index, 0) + one.shard.living

    def draw(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for number, index, opened in opened_shards(batches, shards, store):
            share = -(-sample * len(opened.living) // totals[index])
            labels = np.random.default_rng([seed, number]).choice(opened.living, size=share)
            vectors = list(opened.vectors(labels))
            yield pa.RecordBatch.from_arrays(
                [constant(index, share), pa.array(vectors, pa.list_(pa.float32()))], names=["index", "vector"]
            )

    return draw


def recall_measurer(
    shards: Sequence[PlacedShard], store: Store, queries: dict[int, np.ndarray], k: int, efs: tuple[int, ...]
) -> ArrowFunction:
    """For mapInArrow over rows of shard numbers: every shard's k best scores a query, exact (EXACT) and at each ef.

    queries: index -> (queries, dim) float32, sampled and few, so that they travel in the closure.
    """

    def measure(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for _, index, opened in opened_shards(batches, shards, store):
            asked = queries[index]
            yield scores_batch(index, EXACT, opened.search_exactly(asked, k)[1])
            for ef in efs:
                yield scores_batch(index, ef, opened.search(asked, k, ef)[1])

    return measure


def candidate_finder(shards: Sequence[PlacedShard], store: Store, k: int, efs: list[int] | None) -> ArrowFunction:
    """For mapInArrow over partitions of one shard: columns shard, query_id, vector -> each query's k best nodes' items.

    efs: one an index; None means exact search. The item whose id is the query's is left out; k counts further nodes.
    """

    def find(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        opened: OpenShard | None = None
        for batch in batches:
            if batch.num_rows == 0:
                continue
            one = shards[batch.column("shard")[0].as_py()]
            opened = opened or fetch_shard(store, one)
            vectors = np.stack(batch.column("vector").to_numpy(zero_copy_only=False)).astype(np.float32)
            if efs is None:
                labels, scores = opened.search_exactly(vectors, k + 1)
            else:
                labels, scores = opened.search(vectors, k + 1, efs[one.index])
            yield candidates_batch(one.index, opened, batch.column("query_id"), labels, scores)

    return find


def opened_shards(
    batches: Iterator[pa.RecordBatch], shards: Sequence[PlacedShard], store: Store
) -> Iterator[tuple[int, int, OpenShard]]:
    """(shard number, index, the shard opened) for each row of a column `shard`."""
    for batch in batches:
        for number in batch.column("shard").to_pylist():
            yield number, shards[number].index, fetch_shard(store, shards[number])


def fetch_shard(store: Store, one: PlacedShard) -> OpenShard:
    """Copy a shard's files here, verify them, load them."""
    with tempfile.TemporaryDirectory(prefix="samestyle-search-") as folder:
        graph, items = Path(folder) / "shard.hnsw", Path(folder) / "items.parquet"
        store.get_object(one.shard.graph, graph)
        store.get_object(one.shard.items_file, items)
        return open_shard(graph, items, one.dim, one.shard.nodes)


def constant(value: int, rows: int) -> pa.Array:
    return pa.array(np.full(rows, value), pa.int32())


def scores_batch(index: int, ef: int, scores: np.ndarray) -> pa.RecordBatch:
    rows = len(scores)
    columns = [
        constant(index, rows),
        pa.array(np.arange(rows), pa.int32()),
        constant(ef, rows),
        pa.array(list(scores), pa.list_(pa.float32())),
    ]
    return pa.RecordBatch.from_arrays(columns, names=["index", "query", "ef", "scores"])


def candidates_batch(
    index: int, shard: OpenShard, ids: pa.Array, labels: np.ndarray, scores: np.ndarray
) -> pa.RecordBatch:
    """Nodes as their items: one row a (query, member), less the query itself."""
    queries = np.repeat(np.arange(len(labels)), labels.shape[1])
    flat = labels.ravel()
    counts = shard.first_row[flat + 1] - shard.first_row[flat]
    ends = np.cumsum(counts)
    # Row numbers of every member of every found node, without a Python loop over them.
    rows = np.arange(ends[-1]) - np.repeat(ends - counts, counts) + np.repeat(shard.first_row[flat], counts)
    members = shard.items.select(["item_id", "supplier_id", "category"]).take(pa.array(rows)).to_pandas()
    frame = pd.DataFrame({"query_id": ids.to_pandas().to_numpy()[np.repeat(queries, counts)]}).join(members)
    frame["index"] = np.int32(index)
    frame["score"] = np.repeat(scores.ravel(), counts).astype(np.float32)
    frame = frame[frame["query_id"] != frame["item_id"]]
    return pa.RecordBatch.from_pandas(frame, schema=CANDIDATE, preserve_index=False)
