"""What searching for neighbours costs beside hnswlib alone, as ratios within one run on the same cores.

    .venv/bin/python -m benchmarks.neighbours [--rows 20000] [--queries 20000] [--shards 2] [--rounds 2] [--cores 2]

The same queries over the same graph files: by hnswlib in one process with one thread, and by the job's own search in
Spark's workers (shuffling the queries to the shards, opening them, naming the items, all told), in turns. A search is
one query in one shard. Seconds of CPU, of all processes, and by the clock. --whole: plan, bands, ranks and the table
too.

Cores that share memory and caches slow each other down, in seconds of CPU too: so hnswlib also searches side by side,
a graph a thread, on as many cores as Spark has. What that costs more than one thread alone is no cost of Spark's.
"""

import argparse
import json
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import hnswlib
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.index import clustered, spark_session, write_tables
from benchmarks.stopwatch import Stopwatch
from samestyle.index.candidates import Reach
from samestyle.index.nodes import SPACE
from samestyle.release.manifest import Shard, Thresholds
from samestyle.release.store import LocalStore

M, EF_CONSTRUCTION, SEED = 16, 200, 42
BANDS = Thresholds(same_style=0.8, similar=0.5, duplicate=0.95)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in {"rows": 20_000, "dim": 256, "shards": 2, "queries": 20_000, "rounds": 2, "cores": 2}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--whole", action="store_true", help="write the table as well")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="samestyle-benchmark-") as folder:
        print(json.dumps(compare(Path(folder), chosen), indent=1))


def compare(folder: Path, chosen: argparse.Namespace) -> dict[str, Any]:
    """Searches a second of CPU and core both ways, and their ratio."""
    vectors = clustered(chosen.rows, chosen.dim, 1)
    store = LocalStore(folder / "store")
    records = [{"module": "search", "view": "fused", "dim": chosen.dim, "shards": []}]
    for number in range(chosen.shards):
        rows = np.arange(number, chosen.rows, chosen.shards)
        records[0]["shards"].append(made_shard(folder, store, vectors[rows], rows, number))
    spark = spark_session(folder, chosen.cores)
    try:
        night = night_of(spark, folder, store, vectors[: chosen.queries])
        graphs = [opened(store, shard, chosen.dim) for shard in records[0]["shards"]]
        reach = reach_of(night, chosen.queries)
        ways = searcher(night, records, reach)
        if not chosen.whole:
            del ways["whole"]
        alone = rivals(vectors[: chosen.queries], graphs, reach, chosen.cores)
        return figures(chosen.queries * len(graphs), alone, ways, chosen.rounds)
    finally:
        spark.stop()


def figures(
    searches: int, alone: dict[str, Callable[[], None]], ways: dict[str, Callable[[], None]], rounds: int
) -> dict[str, Any]:
    everything = alone | ways
    spent: dict[str, list[Stopwatch]] = {name: [] for name in everything}
    for way in ways.values():
        way()  # warms the workers and the JVM
    for _ in range(rounds):
        for name, way in everything.items():
            spent[name].append(timed(way))
    cpu = {name: min(watch.cpu for watch in values) for name, values in spent.items()}
    clock = {name: min(watch.clock for watch in values) for name, values in spent.items()}
    return {
        "searches": searches,
        **{f"{name} searches a second of CPU": searches / seconds for name, seconds in cpu.items()},
        **{f"{name} seconds by the clock": seconds for name, seconds in clock.items()},
        **{f"{name} against {rival}": cpu[rival] / cpu[name] for name in ways for rival in alone},
    }


def timed(way: Callable[[], None]) -> Stopwatch:
    watch = Stopwatch()
    way()
    return watch.stop()


def rivals(queries: np.ndarray, graphs: list[hnswlib.Index], reach: Reach, cores: int) -> dict[str, Callable[[], None]]:
    """hnswlib with one thread, and with as many as Spark has cores, each with a graph of its own."""

    def side_by_side() -> None:
        with ThreadPoolExecutor(cores) as pool:
            list(pool.map(lambda graph: search_alone([graph], queries, reach), graphs))

    return {"hnswlib": lambda: search_alone(graphs, queries, reach), "hnswlib side by side": side_by_side}


def search_alone(graphs: list[hnswlib.Index], queries: np.ndarray, reach: Reach) -> None:
    for graph in graphs:
        graph.set_ef(max(reach.ef or 0, reach.nodes))
        graph.knn_query(queries, k=reach.nodes, num_threads=1)


def searcher(night: Any, records: list[dict[str, Any]], reach: Reach) -> dict[str, Callable[[], None]]:
    """The job's search with its outcome counted and dropped, and with all that the job does."""
    from samestyle.tables.indexes import find_candidates
    from samestyle.tables.neighbours import all_triggers, with_node_vectors, write_neighbours
    from udfs.search import candidate_finder, item_reader

    sources = all_triggers(night, ["search"]).select("index", "node_key", "served_at", "content_key")
    with_node_vectors(night, sources).write.parquet(f"{night.run.path}/queries")
    queries = night.spark.read.parquet(f"{night.run.path}/queries")

    def search() -> None:
        found = find_candidates(night, records, queries, [reach], candidate_finder)
        found.write.format("noop").mode("overwrite").save()

    def whole() -> None:
        write_neighbours(night, records, [reach.ef or 0], BANDS, candidate_finder, item_reader)

    return {"search": search, "whole": whole}


def reach_of(night: Any, queries: int) -> Reach:
    from samestyle.tables.neighbours import Plan, reach

    return reach(night.settings.neighbours, BANDS, 100, Plan("search", queries, queries, queries, None))


def night_of(spark: Any, folder: Path, store: LocalStore, vectors: np.ndarray) -> Any:
    """A first night whose catalogue are these vectors."""
    from samestyle.runs import RunFolder
    from samestyle.settings import load_settings
    from samestyle.tables.night import Night

    words = [f"paths.root={folder}", "tables.format=parquet", "modules.homepage=null", "modules.history=null"]
    encoder = SimpleNamespace(encoder_id="e", load=lambda: SimpleNamespace(dim=vectors.shape[1]))
    lease = SimpleNamespace(check=lambda: None)
    run = RunFolder(folder / "runs" / "run")
    night = Night(spark, load_settings("demo", None, words), run, store, lease, encoder, None, None)
    write_tables(night, vectors, "run")
    return night


def made_shard(folder: Path, store: LocalStore, vectors: np.ndarray, rows: np.ndarray, number: int) -> dict[str, Any]:
    """A stock graph of these rows of the catalogue, and its item file; 2,000 suppliers, 50 categories."""
    graph_path, items_path = folder / "g.hnsw", folder / "i.parquet"
    graph = hnswlib.Index(space=SPACE, dim=vectors.shape[1])
    graph.init_index(len(rows), M, EF_CONSTRUCTION, SEED)
    graph.add_items(vectors)
    graph.save_index(str(graph_path))
    drawn = np.random.default_rng(number).integers(2000, size=len(rows))
    columns = {
        "label": np.arange(len(rows)),
        "node_key": [f"{row:064x}" for row in rows],
        "item_id": [f"item-{row:09d}" for row in rows],
        "alive": np.full(len(rows), True),
        "supplier_id": [f"supplier-{n:04d}" for n in drawn],
        "category": [f"Home/Kitchen/Kind {n % 50}" for n in drawn],
    }
    pq.write_table(pa.table(columns), items_path)
    refs = store.put_object(graph_path, ".hnsw"), store.put_object(items_path, ".parquet")
    return asdict(Shard(number, None, *refs, len(rows), len(rows), 0.0, True, SEED, "", 0))


def opened(store: LocalStore, shard: dict[str, Any], dim: int) -> hnswlib.Index:
    graph = hnswlib.Index(space=SPACE, dim=dim)
    graph.load_index(str(store.path(shard["graph"]["key"])))
    return graph


if __name__ == "__main__":
    main()
