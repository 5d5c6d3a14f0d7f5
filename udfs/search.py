"""Search shards on executors: a task opens its shard once, and answers every query that comes."""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from samestyle.evaluation.recall import EXACT
from samestyle.index.exact import exact_search
from samestyle.index.shard import OpenShard, open_shard
from samestyle.release.manifest import Shard
from samestyle.release.store import Store

ArrowFunction = Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]


def vector_sampler(shards: dict[int, Shard], store: Store, dim: int, sample: int, seed: int) -> ArrowFunction:
    """For mapInArrow over rows of shard numbers: about `sample` vectors in all, each shard giving its share.

    Small shards give a vector several times over: a small index is measured with as many queries as a large one.
    """
    total = sum(shard.nodes for shard in shards.values())

    def draw(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for shard in (int(n) for batch in batches for n in batch.column("shard").to_pylist()):
            opened = fetch_shard(store, shards[shard], dim)
            share = -(-sample * opened.nodes // total)
            labels = np.random.default_rng([seed, shard]).integers(opened.nodes, size=share)
            vectors = list(np.asarray(opened.graph.get_items(labels), dtype=np.float32))
            yield pa.RecordBatch.from_arrays([pa.array(vectors, pa.list_(pa.float32()))], names=["vector"])

    return draw


def recall_measurer(
    shards: dict[int, Shard], store: Store, dim: int, queries: np.ndarray, k: int, efs: tuple[int, ...]
) -> ArrowFunction:
    """For mapInArrow over rows of shard numbers: every shard's k best scores a query, exact (EXACT) and at each ef.

    queries: (queries, dim) float32, sampled and few, so that they travel in the closure.
    """

    def measure(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for shard in (int(n) for batch in batches for n in batch.column("shard").to_pylist()):
            opened = fetch_shard(store, shards[shard], dim)
            _, scores = exact_search(opened.vectors(), queries, k)
            yield scores_batch(EXACT, scores)
            for ef in efs:
                yield scores_batch(ef, opened.search(queries, k, ef)[1])

    return measure


def fetch_shard(store: Store, shard: Shard, dim: int) -> OpenShard:
    """Copy a shard's files here, verify them, load them."""
    with tempfile.TemporaryDirectory(prefix="samestyle-search-") as folder:
        graph, items = Path(folder) / "shard.hnsw", Path(folder) / "items.parquet"
        store.get_object(shard.graph, graph)
        store.get_object(shard.items_file, items)
        return open_shard(graph, items, dim, shard.nodes)


def scores_batch(ef: int, scores: np.ndarray) -> pa.RecordBatch:
    rows = len(scores)
    return pa.RecordBatch.from_arrays(
        [
            pa.array(np.arange(rows), pa.int32()),
            pa.array(np.full(rows, ef), pa.int32()),
            pa.array(list(scores), pa.list_(pa.float32())),
        ],
        names=["query", "ef", "scores"],
    )


def candidate_finder(shards: dict[int, Shard], store: Store, dim: int, k: int, ef: int | None) -> ArrowFunction:
    """For mapInArrow over partitions of one shard: columns shard, query_id, vector -> each query's k best nodes' items.

    ef None means exact search. The item whose id is the query's is left out; k counts nodes besides its own.
    """

    def find(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        opened: OpenShard | None = None
        for batch in batches:
            if batch.num_rows == 0:
                continue
            opened = opened or fetch_shard(store, shards[batch.column("shard")[0].as_py()], dim)
            vectors = np.stack(batch.column("vector").to_numpy(zero_copy_only=False)).astype(np.float32)
            if ef is None:
                labels, scores = exact_search(opened.vectors(), vectors, k + 1)
            else:
                labels, scores = opened.search(vectors, k + 1, ef)
            yield candidates_batch(opened, batch.column("query_id"), labels, scores)

    return find


def candidates_batch(shard: OpenShard, ids: pa.Array, labels: np.ndarray, scores: np.ndarray) -> pa.RecordBatch:
    """Nodes as their items: one row a (query, member), less the query itself."""
    queries = np.repeat(np.arange(len(labels)), labels.shape[1])
    flat = labels.ravel()
    counts = shard.first_row[flat + 1] - shard.first_row[flat]
    ends = np.cumsum(counts)
    # Row numbers of every member of every found node, without a Python loop over them.
    rows = np.arange(ends[-1]) - np.repeat(ends - counts, counts) + np.repeat(shard.first_row[flat], counts)
    members = shard.items.select(["item_id", "supplier_id", "category"]).take(pa.array(rows)).to_pandas()
    query_ids = ids.to_pandas().to_numpy()[np.repeat(queries, counts)]
    frame = pd.DataFrame({"query_id": query_ids}).join(members)
    frame["score"] = np.repeat(scores.ravel(), counts).astype(np.float32)
    frame = frame[frame["query_id"] != frame["item_id"]]
    schema = pa.schema(
        [(n, pa.string()) for n in ("query_id", "item_id", "supplier_id", "category")] + [("score", pa.float32())]
    )
    return pa.RecordBatch.from_pandas(frame, schema=schema, preserve_index=False)
