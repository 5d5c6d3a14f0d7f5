"""Build shards on executors: a task takes one shard's rows, makes its files and hands them to the store."""

import json
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from samestyle.index.build import build_shard
from samestyle.index.items import write_items
from samestyle.index.nodes import GraphParameters
from samestyle.release.manifest import PlacedShard
from samestyle.release.store import Store, reporting

ArrowFunction = Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]
Record = dict[str, Any]


def node_reader(shards: Sequence[PlacedShard], store: Store) -> ArrowFunction:
    """For mapInArrow over rows of shard numbers: the nodes that these shards' item files name.

    Yields (index, key, slot, label, node_key); a slot is the shard's place among `shards`.
    """

    def read(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for slot in batch.column("shard").to_pylist():
                yield from nodes_of(shards[slot], slot, store)

    return read


def nodes_of(one: PlacedShard, slot: int, store: Store) -> Iterator[pa.RecordBatch]:
    with tempfile.TemporaryDirectory(prefix="samestyle-items-") as folder:
        path = Path(folder) / "items.parquet"
        store.get_object(one.shard.items_file, path)
        rows = pq.read_table(path, columns=["label", "node_key"])
    first = np.diff(rows["label"].to_numpy(), prepend=-1) > 0
    for batch in rows.filter(pa.array(first)).to_batches():
        constants = {
            "index": pa.repeat(pa.scalar(one.index, pa.int32()), batch.num_rows),
            "key": pa.repeat(pa.scalar(one.shard.key or ""), batch.num_rows),
            "slot": pa.repeat(pa.scalar(slot, pa.int32()), batch.num_rows),
        }
        yield pa.RecordBatch.from_pydict(constants | {name: batch.column(name) for name in ("label", "node_key")})


def shard_builder(graphs: dict[int, GraphParameters], kept: dict[int, int], store: Store) -> ArrowFunction:
    """For mapInArrow over partitions that hold one shard each, ordered by label, its node, its items.

    graphs: shard -> how it is built. kept: shard -> its number of nodes, where the graph stays as it is and only the
    item file is written. Rows of a shard to build say in `nodes` how many there are. Yields (shard, JSON of what was
    counted and of the objects in the store).
    """

    def build(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        first = next((batch for batch in batches if batch.num_rows), None)
        if first is None:
            return
        shard = first.column("shard")[0].as_py()
        rows = own_columns(chain([first], batches), shard)
        with tempfile.TemporaryDirectory(prefix="samestyle-shard-") as folder, reporting(folder):
            if shard in kept:
                record = keep(rows, kept[shard], Path(folder), store)
            else:
                record = build_and_store(rows, first.column("nodes")[0].as_py(), graphs[shard], Path(folder), store)
        yield pa.RecordBatch.from_pydict({"shard": pa.array([shard], pa.int32()), "record": [json.dumps(record)]})

    return build


def own_columns(batches: Iterable[pa.RecordBatch], shard: int) -> Iterator[pa.RecordBatch]:
    """The batches less what is the same in all rows; a second shard in one partition would be a bug of the plan."""
    for batch in batches:
        if batch.num_rows and batch.column("shard").unique().to_pylist() != [shard]:
            raise ValueError(f"a partition holds shard {shard} and another: repartition by shard id first")
        yield batch.drop_columns(["shard", "nodes"])


def keep(batches: Iterable[pa.RecordBatch], nodes: int, folder: Path, store: Store) -> Record:
    path = folder / "items.parquet"
    counts = write_items((batch.drop_columns(["vector"]) for batch in batches), nodes, path)
    return {
        "items": counts.items,
        "dead_share": counts.dead / nodes,
        "items_file": asdict(store.put_object(path, ".parquet")),
    }


def build_and_store(
    batches: Iterable[pa.RecordBatch], nodes: int, graph: GraphParameters, folder: Path, store: Store
) -> Record:
    graph_path, items_path = folder / "shard.hnsw", folder / "items.parquet"
    built = build_shard(batches, nodes, graph, graph_path, items_path)
    return asdict(built) | {
        "dead_share": 0.0,
        "seed": graph.seed,
        "graph": asdict(store.put_object(graph_path, ".hnsw")),
        "items_file": asdict(store.put_object(items_path, ".parquet")),
    }
