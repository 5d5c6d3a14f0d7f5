"""What the reader adds to a search of the bare hnswlib file: p50 and p99 of both, one query at a time.

    .venv/bin/python benchmarks/serving.py [--nodes 100000] [--queries 2000] [--processes 5]

The median over some processes, with the least and the most of them: where a process happens to have its strings and
vectors in memory moves the figures more than the code does. Both ask the same graph with the same queries for the same
k, turn about, on one core; the reader's answer includes the item ids. Every tenth node has two items. Further lines:
with excluded suppliers, with filters, and the memory before, during and after a switch.
"""

import argparse
import dataclasses
import gc
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import hnswlib
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from samestyle.release.gate import GateResult
from samestyle.release.manifest import EncoderEntry, Index, Manifest, Recall, Shard, Source, Thresholds
from samestyle.release.publish import publish
from samestyle.release.store import LocalStore, Store
from samestyle.serving import Searcher, open_release

DIM, M, EF, K = 256, 16, 100, 10
BLOCK = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=100_000)
    parser.add_argument("--queries", type=int, default=2_000)
    parser.add_argument("--processes", type=int, default=5)
    chosen = parser.parse_args()
    if chosen.processes == 1:
        print(json.dumps(one_process(chosen.nodes, chosen.queries)))
        return
    words = [sys.executable, __file__, "--processes=1", f"--nodes={chosen.nodes}", f"--queries={chosen.queries}"]
    found = [json.loads(subprocess.check_output(words)) for _ in range(chosen.processes)]
    print(json.dumps({name: medians([one[name] for one in found]) for name in found[0]}, indent=1))


def medians(figures: list[dict[str, float]]) -> dict[str, str]:
    """By name the median, the least and the most."""
    return {name: "{1:.5g} ({0:.5g} to {2:.5g})".format(*spread([one[name] for one in figures])) for name in figures[0]}


def spread(values: list[float]) -> tuple[float, float, float]:
    return min(values), statistics.median(values), max(values)


def one_process(nodes: int, asked: int) -> dict[str, dict[str, float]]:
    with tempfile.TemporaryDirectory(prefix="samestyle-benchmark-") as folder:
        store = LocalStore(Path(folder) / "store")
        vectors = clustered(nodes, seed=1)
        first = publish_release(store, Path(folder), "r1", vectors, None)
        before = memory()
        searcher = open_release(store.uri, "search", Path(folder) / "cache")
        after = memory()
        figures = measure(searcher, clustered(asked, seed=2))
        publish_release(store, Path(folder), "r2", clustered(nodes, seed=3), first)
        return figures | {"memory": switch(searcher, before, after)}


def clustered(count: int, seed: int) -> np.ndarray:
    """Unit vectors around 1,000 centres, as catalogues have them: (count, DIM) float32."""
    centres = np.random.default_rng(0).normal(size=(1000, DIM))
    rng = np.random.default_rng(seed)
    vectors = centres[rng.integers(1000, size=count)] + 0.8 * rng.normal(size=(count, DIM))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def publish_release(
    store: Store, folder: Path, release_id: str, vectors: np.ndarray, parent: Manifest | None
) -> Manifest:
    """One shard, with 1,000 suppliers and an attribute to filter by."""
    graph = hnswlib.Index("ip", DIM)
    graph.init_index(len(vectors), M, 100, 1)
    graph.add_items(vectors, np.arange(len(vectors)))
    graph.save_index(str(folder / "graph"))
    items = item_rows(len(vectors))
    pq.write_table(items, folder / "items")
    refs = store.put_object(folder / "graph", ".hnsw"), store.put_object(folder / "items", ".parquet")
    shard = Shard(0, None, *refs, len(vectors), len(items), 0.0, False, 1, "0" * 64, 0)
    recall, bands = Recall(10, 1.0, 1.0, 1.0, 1), Thresholds(0.8, 0.5, 0.95)
    index = Index("search", "fused", DIM, M, 100, EF, recall, bands, (shard,))
    encoder = EncoderEntry("none", DIM, {}, {})
    manifest = Manifest(
        release_id, "2026-01-01", None, release_id, "", {}, "", Source(""), "", encoder, {}, (index,),
        gate=(GateResult("none", True, 0, 0, ""),),
    )  # fmt: skip
    publish(store, manifest, "current", parent.release_id if parent else None)
    return dataclasses.replace(manifest)


def item_rows(nodes: int) -> pa.Table:
    """Every tenth node has a second item."""
    labels = np.sort(np.concatenate([np.arange(nodes), np.arange(0, nodes, 10)]))
    rows = np.arange(len(labels))
    price = pa.array(rows % 100, pa.float64())
    return pa.table({
        "label": labels,
        "node_key": [f"{label:064x}" for label in labels],
        "item_id": [f"item-{row:09d}" for row in rows],
        "alive": np.ones(len(rows), bool),
        "supplier_id": [f"supplier-{row % 1000}" for row in rows],
        "category": [f"category-{row % 200}" for row in rows],
        "attributes": pa.StructArray.from_arrays([price], ["price"]),
    })  # fmt: skip


def measure(searcher: Searcher, queries: np.ndarray) -> dict[str, dict[str, float]]:
    """Microseconds a query, and the share that the reader adds."""
    shard = searcher._generation.views["fused"][0]
    price, most = pc.field("attributes", "price"), frozenset({"supplier-1", "supplier-2"})
    raw = timed(queries, lambda q: shard.graph.knn_query(q, k=K, num_threads=1))
    ways: dict[str, Callable[[np.ndarray], object]] = {
        "reader": lambda q: searcher.search(q, K),
        "two suppliers excluded": lambda q: searcher.search(q, K, exclude_suppliers=most),
        "half of the items filtered out": lambda q: searcher.search(q, K, where=price < 50),
        "all but 2 % filtered out": lambda q: searcher.search(q, K, where=price < 2),
    }
    report = {}
    for name, way in ways.items():
        bare, own = alternately(queries, lambda q: shard.graph.knn_query(q, k=K, num_threads=1), way)
        report[name] = compared(bare, own)
    report["hnswlib alone"] = {"p50_us": float(np.percentile(raw, 50)), "p99_us": float(np.percentile(raw, 99))}
    return report


def timed(queries: np.ndarray, way: Callable[[np.ndarray], object]) -> np.ndarray:
    return alternately(queries, way, way)[0]


def alternately(
    queries: np.ndarray, one: Callable[[np.ndarray], object], other: Callable[[np.ndarray], object]
) -> tuple[np.ndarray, np.ndarray]:
    """Microseconds a query of both ways, turn about, the other half of the queries first for one: so that whatever else
    the machine does meets both, and no query finds its vectors in the processor's cache.

    Processor time of the thread: what a query takes on an idle core, whatever else this machine is doing.
    """
    times: tuple[list[float], list[float]] = ([], [])
    asked = queries, np.roll(queries, len(queries) // 2, axis=0)
    gc.collect()
    gc.freeze()
    for number, start in enumerate(range(0, len(queries), BLOCK)):
        for place in (0, 1) if number % 2 else (1, 0):
            for query in asked[place][start : start + BLOCK]:
                began = time.thread_time()
                (one, other)[place](query)
                times[place].append(1e6 * (time.thread_time() - began))
    return np.array(times[0]), np.array(times[1])


def compared(bare: np.ndarray, own: np.ndarray) -> dict[str, float]:
    found: dict[str, float] = {}
    for p in (50, 99):
        one, other = float(np.percentile(bare, p)), float(np.percentile(own, p))
        found |= {f"p{p}_us": round(other, 1), f"p{p}_added_us": round(other - one, 1)}
        found[f"p{p}_added_share"] = round(other / one - 1, 3)
    return found


def switch(searcher: Searcher, before: float, after: float) -> dict[str, float]:
    """MB of this process: without a release, with one, at most while it switches to another of the same size, after."""
    reset_peak()
    assert searcher.refresh().switched
    during = peak()
    gc.collect()
    return {"before_mb": before, "serving_mb": after, "switching_mb": during, "after_mb": memory()}


def memory() -> float:
    return status("VmRSS")


def peak() -> float:
    return status("VmHWM")


def status(name: str) -> float:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return round(int(line.split()[1]) / 1024, 0)


def reset_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


if __name__ == "__main__":
    sys.exit(main())
