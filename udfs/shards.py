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
import pyarrow.compute as pc
import pyarrow.parquet as pq

from samestyle.errors import IntegrityError
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


def shard_builder(built: dict[int, tuple[GraphParameters, int]], kept: dict[int, int], store: Store) -> ArrowFunction:
    """For mapInArrow over partitions that hold one shard each: for every node first its own row, then its items.

    built: shard -> how it is built, and of how many nodes; they get their labels here, by the order in which they come.
    kept: shard -> its number of nodes, where the graph stays as it is and only the item file is written, in the order
    of labels. Yields (shard, JSON of what was counted and of the objects in the store).
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
                graph, nodes = built[shard]
                record = build_and_store(labelled(rows), nodes, graph, Path(folder), store)
        yield pa.RecordBatch.from_pydict({"shard": pa.array([shard], pa.int32()), "record": [json.dumps(record)]})

    return build


def own_columns(batches: Iterable[pa.RecordBatch], shard: int) -> Iterator[pa.RecordBatch]:
    """The batches less what is the same in all rows; a second shard in one partition would be a bug of the plan."""
    for batch in batches:
        if batch.num_rows and batch.column("shard").unique().to_pylist() != [shard]:
            raise ValueError(f"a partition holds shard {shard} and another: repartition by shard id first")
        yield batch.drop_columns(["shard"])


def labelled(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """The batches with labels: a node's is its place among the nodes, its items have the same.

    Raises IntegrityError for an item that does not follow its node.
    """
    last, key = -1, pa.array([None], pa.string())
    for batch in filter(len, batches):
        is_node = batch.column("vector").is_valid().to_numpy(zero_copy_only=False)
        keys = pa.concat_arrays([key, batch.column("node_key")])
        stray = ~is_node & pc.fill_null(pc.not_equal(keys[1:], keys[:-1]), True).to_numpy(zero_copy_only=False)
        if stray.any():
            item = batch.column("item_id")[int(np.argmax(stray))]
            raise IntegrityError(
                f"item {item} came without the vector of its node: the tables changed while shards were built; "
                "run build_index again"
            )
        labels = last + np.cumsum(is_node)
        last, key = int(labels[-1]), keys[-1:]
        yield batch.set_column(batch.schema.get_field_index("label"), "label", pa.array(labels, pa.int64()))


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
