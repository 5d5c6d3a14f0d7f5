"""Build shards on executors: a task takes one shard's rows, builds it, hands it to the store and yields a row of it."""

import json
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from itertools import chain
from pathlib import Path

import pyarrow as pa

from samestyle.index.build import build_shard
from samestyle.index.nodes import GraphParameters
from samestyle.release.store import Store


def shard_builder(
    graphs: dict[int, GraphParameters], nodes: dict[int, int], store: Store
) -> Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    """For mapInArrow over partitions that hold one shard each, ordered by (label, item_id).

    graphs, nodes: shard -> how it is built, and its number of nodes. Yields (shard, JSON of its BuiltShard and of its
    two objects in the store).
    """

    def build(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        first = next((batch for batch in batches if batch.num_rows), None)
        if first is None:
            return
        shard = first.column("shard")[0].as_py()
        record = build_and_store(without_shard(chain([first], batches), shard), nodes[shard], graphs[shard], store)
        yield pa.RecordBatch.from_pydict({"shard": pa.array([shard], pa.int32()), "record": [json.dumps(record)]})

    return build


def without_shard(batches: Iterable[pa.RecordBatch], shard: int) -> Iterator[pa.RecordBatch]:
    """The batches less their shard column; a second shard in one partition would be a bug of the plan."""
    for batch in batches:
        if batch.num_rows and batch.column("shard").unique().to_pylist() != [shard]:
            raise ValueError(f"a partition holds shard {shard} and another: repartition by shard id first")
        yield batch.drop_columns(["shard"])


def build_and_store(batches: Iterable[pa.RecordBatch], nodes: int, graph: GraphParameters, store: Store) -> dict:
    with tempfile.TemporaryDirectory(prefix="samestyle-shard-") as folder:
        graph_path, items_path = Path(folder) / "shard.hnsw", Path(folder) / "items.parquet"
        built = build_shard(batches, nodes, graph, graph_path, items_path)
        return asdict(built) | {
            "seed": graph.seed,
            "graph": asdict(store.put_object(graph_path, ".hnsw")),
            "items_file": asdict(store.put_object(items_path, ".parquet")),
        }
