"""Search shards on executors: a task opens its shard once, and answers every query that comes."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from samestyle.evaluation.queries import Queries
from samestyle.evaluation.recall import EXACT, recalls
from samestyle.index.candidates import Candidates, CandidateShard, Reach
from samestyle.index.items import regrouped
from samestyle.index.shard import OpenShard, open_shard
from samestyle.release.manifest import PlacedShard
from samestyle.release.store import Store

ArrowFunction = Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]
# Queries a shard and ef whose steps are counted, which is slow.
WALKED = 5
# Queries that are put in order together, which takes up to 80 MiB: the more, the nearer are neighbours to each other.
QUERIES = 16_384
OF_ITEM = ("item_id", "node_key", "supplier_id", "category")


def vector_sampler(
    shards: Sequence[PlacedShard], store: Store, sample: int, seeds: dict[int, int], keys: dict[int, list[str]]
) -> ArrowFunction:
    """For mapInArrow over rows of shard numbers: about `sample` vectors an index, each shard giving its share.

    Small shards give a vector several times over: a small index is measured with as many queries as a large one.
    seeds, keys: by index. Yields (index, node_key, category, vector); of `keys` those that a shard holds as well,
    without a vector.
    """
    totals: dict[int, int] = {}
    for one in shards:
        totals[one.index] = totals.get(one.index, 0) + one.shard.living

    def draw(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for number, index, opened in opened_shards(batches, shards, store):
            share = -(-sample * len(opened.living) // totals[index])
            draws = np.random.default_rng([seeds[index], shards[number].shard.shard])
            labels = draws.choice(opened.living, size=share)
            rows = opened.items.select(["node_key", "category"]).take(pa.array(opened.first_row[labels]))
            yield sampled_batch(index, rows["node_key"], rows["category"], list(opened.vectors(labels)))
            known = opened.items["node_key"]
            held = known.filter(pc.is_in(known, pa.array(keys[index], pa.string()))).unique()
            yield sampled_batch(index, held, pa.nulls(len(held)), [None] * len(held))

    return draw


def recall_measurer(
    shards: Sequence[PlacedShard], store: Store, queries: dict[int, Queries], k: int, efs: tuple[int, ...]
) -> ArrowFunction:
    """For mapInArrow over rows of shard numbers: every shard's k best scores a query, exact (EXACT) and at each ef.

    queries: by index, sampled and few, so that they travel in the closure. Yields (shard, index, query, ef, scores,
    recall, compared): the recall of this shard's own k best, and for some queries the vectors that they were compared
    with.
    """

    def measure(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for number, index, opened in opened_shards(batches, shards, store, links=True):
            asked, walked = queries[index], queries[index].spread(WALKED)
            exact = asked.scores(opened.search_exactly, k)
            yield scores_batch(number, index, EXACT, exact, exact, {})
            for ef in efs:
                found = asked.scores(partial(opened.search, ef=ef), k)
                compared = opened.compared(asked.vectors[walked], k, ef)
                yield scores_batch(number, index, ef, found, exact, dict(zip(walked, compared, strict=True)))

    return measure


def candidate_finder(shards: Sequence[PlacedShard], store: Store, reaches: Sequence[Reach]) -> ArrowFunction:
    """For mapInArrow over partitions of one shard: columns shard, query_id, vector -> the items of each query's nodes.

    reaches: one an index. Yields rows of tables.indexes.CANDIDATES; the query's own item is among them.
    """

    def find(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        opened: CandidateShard | None = None
        for table in regrouped(batches, QUERIES):
            (batch,) = table.to_batches()
            one = shards[batch.column("shard")[0].as_py()]
            opened = opened or CandidateShard(fetch_shard(store, one))
            vectors = batch.column("vector").flatten().to_numpy().reshape(batch.num_rows, one.dim)
            reach = reaches[one.index]
            for found in opened.find(vectors, reach):
                yield from named(one.index, opened, batch.column("query_id"), found, reach.members).to_batches()

    return find


def item_reader(shards: Sequence[PlacedShard], store: Store) -> ArrowFunction:
    """For mapInArrow over rows of shard numbers: the living items of these shards' item files.

    Yields rows of tables.indexes.MEMBERS.
    """

    def read(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for number in batch.column("shard").to_pylist():
                yield from living_items(shards[number], store)

    return read


def living_items(one: PlacedShard, store: Store) -> Iterator[pa.RecordBatch]:
    with tempfile.TemporaryDirectory(prefix="samestyle-items-") as folder:
        path = Path(folder) / "items.parquet"
        store.get_object(one.shard.items_file, path)
        rows = pq.read_table(path, columns=[*OF_ITEM, "alive"])
    living = rows.filter(pc.fill_null(rows["alive"], False)).select(OF_ITEM)
    for batch in living.to_batches():
        columns = [constant(one.index, batch.num_rows), *batch.columns]
        yield pa.RecordBatch.from_arrays(columns, names=["index", *OF_ITEM])


def opened_shards(
    batches: Iterator[pa.RecordBatch], shards: Sequence[PlacedShard], store: Store, links: bool = False
) -> Iterator[tuple[int, int, OpenShard]]:
    """(shard number, index, the shard opened) for each row of a column `shard`."""
    for batch in batches:
        for number in batch.column("shard").to_pylist():
            yield number, shards[number].index, fetch_shard(store, shards[number], links)


def fetch_shard(store: Store, one: PlacedShard, links: bool = False) -> OpenShard:
    """Copy a shard's files here, verify them, load them."""
    with tempfile.TemporaryDirectory(prefix="samestyle-search-") as folder:
        graph, items = Path(folder) / "shard.hnsw", Path(folder) / "items.parquet"
        store.get_object(one.shard.graph, graph)
        store.get_object(one.shard.items_file, items)
        return open_shard(graph, items, one.dim, one.shard.nodes, links)


def constant(value: int, rows: int) -> pa.Array:
    return pa.array(np.full(rows, value, np.int32))


def sampled_batch(index: int, keys: Any, categories: Any, vectors: list[Any]) -> pa.RecordBatch:
    """keys, categories: Arrow arrays, as long as `vectors`."""
    return pa.RecordBatch.from_pydict(
        {
            "index": constant(index, len(vectors)),
            "node_key": pa.array(keys.to_pylist(), pa.string()),
            "category": pa.array(categories.to_pylist(), pa.string()),
            "vector": pa.array(vectors, pa.list_(pa.float32())),
        }
    )


def scores_batch(
    shard: int, index: int, ef: int, scores: np.ndarray, exact: np.ndarray, compared: dict[int, int]
) -> pa.RecordBatch:
    """compared: query -> vectors that it was compared with."""
    rows = len(scores)
    return pa.RecordBatch.from_pydict(
        {
            "shard": constant(shard, rows),
            "index": constant(index, rows),
            "query": pa.array(np.arange(rows), pa.int32()),
            "ef": constant(ef, rows),
            "scores": pa.array(list(scores), pa.list_(pa.float32())),
            "recall": pa.array(recalls(scores, exact)),
            "compared": pa.array([compared.get(query) for query in range(rows)], pa.int64()),
        }
    )


def named(index: int, shard: CandidateShard, ids: pa.Array, found: Candidates, members: int | None) -> pa.Table:
    """Nodes as their items, without a Python loop over them."""
    places, rows = shard.rows_of(found, members)
    first = np.diff(places, prepend=-1) > 0
    items = shard.items.select(OF_ITEM).take(pa.array(rows))
    queries = ids.take(pa.array(found.queries[places]))
    columns = [constant(index, len(rows)), queries, *items.columns, pa.array(found.scores[places]), pa.array(first)]
    return pa.Table.from_arrays(columns, names=["index", "query_id", *OF_ITEM, "score", "first"])
