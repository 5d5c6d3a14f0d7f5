"""What building, cutting and keeping shards costs, as ratios within one run on the same cores.

    .venv/bin/python -m benchmarks.index build [--rows 200000] [--dim 256] [--shards 8] [--rounds 3]
    .venv/bin/python -m benchmarks.index nights [--rows 100000] [--dim 64] [--shards 10] [--nights 60]
    .venv/bin/python -m benchmarks.index memory [--rows 500000] [--dim 256]
    .venv/bin/python -m benchmarks.index growth [--rows 1000000] [--dim 256]
    .venv/bin/python -m benchmarks.index others [--rows 200000] [--dim 256]
    .venv/bin/python -m benchmarks.index peers [--rows 50000] [--dim 256] [--shards 8]

build: shards by Spark's tasks against one graph that hnswlib builds with as many threads, in turns; then the same
queries, each at the ef that a recall@10 of .99 needs: how many vectors are compared. nights: the shards after many
nights of 1 % new and 1 % gone against a fresh build, the worst of three looks. memory: the peak of a process that
builds a shard against what the plan says. growth: seconds of CPU a vector and vectors compared with a query, of one
graph that grows. others: the graphs of faiss and usearch against hnswlib's, installed for it into a folder that is
removed again. peers: shards by Spark's tasks against those that autofaiss builds with Spark, installed likewise.

Spark runs with conf/spark/dev.conf, as it does on data of this size: demo.conf saves on starting, for tables of some
thousand rows.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import hnswlib
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.stopwatch import Stopwatch
from samestyle.evaluation.recall import recalls
from samestyle.index.build import build_shard
from samestyle.index.exact import exact_search
from samestyle.index.nodes import GraphParameters
from samestyle.index.segments import Limits, Segment, plan_segments
from samestyle.index.shard import OpenShard, open_shard
from samestyle.index.walk import Walk

M, EF_CONSTRUCTION, K, TARGET = 16, 200, 10, 0.99
EFS = (10, 14, 20, 28, 40, 56, 80, 112, 160, 224, 320)
OTHERS = ("faiss-cpu==1.15.1", "usearch==2.26.6", "numpy==2.4.6")
PEERS = ("autofaiss==2.18.0", "faiss-cpu==1.15.1", "numpy==1.26.4", "pyarrow==15.0.2", "pyspark==3.5.7")
NOW = datetime(2026, 1, 1, tzinfo=UTC)
Search = Callable[[np.ndarray, int], tuple[np.ndarray, int]]  # query, ef -> cosines of the K best, vectors compared


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("build", "nights", "memory", "one", "growth", "others", "peers"))
    parser.add_argument("--rows", type=int)
    parser.add_argument("--dim", type=int)
    parser.add_argument("--shards", type=int)
    parser.add_argument("--nights", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    chosen = parser.parse_args()
    rows, dim, threads = chosen.rows, chosen.dim, chosen.threads
    with tempfile.TemporaryDirectory(prefix="samestyle-benchmark-") as name:
        folder = Path(name)
        parts: dict[str, Callable[[], dict]] = {
            "build": lambda: build(folder, rows or 200_000, dim or 256, chosen.shards or 8, threads, chosen.rounds),
            "nights": lambda: nights(folder, rows or 100_000, dim or 64, chosen.shards or 10, chosen.nights),
            "memory": lambda: memory(rows or 500_000, dim or 256),
            "one": lambda: one_shard(folder, rows or 500_000, dim or 256),
            "growth": lambda: growth(rows or 1_000_000, dim or 256, threads),
            "others": lambda: others(folder, rows or 200_000, dim or 256, threads),
            "peers": lambda: peers(folder, rows or 50_000, dim or 256, chosen.shards or 8, threads),
        }
        figures = parts[chosen.part]()
    print(json.dumps(figures, indent=None if chosen.part == "one" else 1))


@cache
def centres(dim: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((1000, dim), dtype=np.float32)


def clustered(count: int, dim: int, seed: int) -> np.ndarray:
    """Unit vectors around 1,000 centres, as catalogues have them: (count, dim) float32."""
    rng = np.random.default_rng(seed)
    vectors = centres(dim)[rng.integers(1000, size=count)] + 0.8 * rng.standard_normal((count, dim), dtype=np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def build(folder: Path, rows: int, dim: int, shards: int, threads: int, rounds: int) -> dict[str, Any]:
    """Seconds of both ways, in turns, and what the same queries cost each."""
    vectors, queries = clustered(rows, dim, 1), clustered(200, dim, 2)
    exact = exact_search(vectors, queries, K)[1]
    both: list[tuple[Stopwatch, Stopwatch]] = []
    with SparkBuild(folder, vectors, shards, threads) as spark:
        for _ in range(rounds):
            raw, took = build_raw(vectors, threads)
            spark.build(1000)  # workers that had nothing to do for a minute are gone
            both.append((took, spark.build(rows)))
    ratios = [took.clock / spark_took.clock for took, spark_took in both]
    one = measure(search_walks([Walk.of(raw)]), queries, exact)
    many = measure(search_walks([Walk.of(shard.graph) for shard in spark.opened()]), queries, exact)
    return {
        "raw_seconds": [took.clock for took, _ in both],
        "spark_seconds": [took.clock for _, took in both],
        "raw_cpu_seconds": [took.cpu for took, _ in both],
        "spark_cpu_seconds": [took.cpu for _, took in both],
        "times_as_fast_as_raw": ratios,
        "median": float(np.median(ratios)),
        **{f"one_{name}": value for name, value in one.items()},
        **{f"shards_{name}": value for name, value in many.items()},
        "compared_ratio": many["compared"] / one["compared"],
    }


def build_raw(vectors: np.ndarray, threads: int) -> tuple[hnswlib.Index, Stopwatch]:
    """One graph of all vectors, and what it took."""
    watch = Stopwatch()
    raw = hnswlib.Index("ip", vectors.shape[1])
    raw.init_index(len(vectors), M, EF_CONSTRUCTION, 42)
    for start in range(0, len(vectors), 10_000):
        raw.add_items(vectors[start : start + 10_000], num_threads=threads)
    return raw, watch.stop()


class SparkBuild:
    """The product's own build of a table of contents; the session and its workers are warm, as in a night."""

    def __init__(self, folder: Path, vectors: np.ndarray, shards: int, threads: int) -> None:
        from samestyle.release.store import LocalStore
        from samestyle.settings import load_settings

        self.folder, self.vectors, self.store = folder, vectors, LocalStore(folder / "store")
        rows = len(vectors) // shards
        module = f"{{views: [fused], where: null, m: {M}, ef_construction: {EF_CONSTRUCTION}, shard_rows: {rows}}}"
        words = [f"paths.root={folder}", "tables.format=parquet", f"modules={{search: {module}}}"]
        settings = load_settings("demo", None, words)
        self.settings = settings.model_copy(update={"modules": {"search": settings.modules["search"]}})
        self.spark = spark_session(folder, threads)
        self.records: list[dict] = []
        self.build(1000)

    def build(self, rows: int) -> Stopwatch:
        from samestyle.runs import RunFolder
        from samestyle.tables.building import build_indexes
        from samestyle.tables.modules import index_tasks
        from samestyle.tables.night import Night
        from udfs.shards import node_reader, shard_builder

        encoder = SimpleNamespace(load=lambda: SimpleNamespace(dim=self.vectors.shape[1]), encoder_id="e")
        run = RunFolder(self.folder / "runs" / f"run{time.monotonic_ns()}")
        night = Night(self.spark, self.settings, run, self.store, SimpleNamespace(), encoder, None, None)
        write_tables(night, self.vectors[:rows], run.run_id)
        tasks = list(index_tasks(self.settings, [], []))
        watch = Stopwatch()
        self.records = build_indexes(night, tasks, node_reader, shard_builder)
        return watch.stop()

    def opened(self) -> list[OpenShard]:
        """The shards that were built last."""
        from samestyle.release.manifest import Shard, decode

        made = [decode(Shard, shard, "shard") for shard in self.records[0]["shards"]]
        print([shard.nodes for shard in made], file=sys.stderr)
        return [
            open_shard(
                self.store.path(one.graph.key), self.store.path(one.items_file.key), self.vectors.shape[1], one.nodes
            )
            for one in made
        ]

    def __enter__(self) -> "SparkBuild":
        return self

    def __exit__(self, *error: object) -> None:
        self.spark.stop()


def spark_session(folder: Path, threads: int):
    from pyspark.sql import SparkSession

    root = Path(__file__).resolve().parents[1]
    os.environ |= {"SPARK_LOCAL_IP": "127.0.0.1", "PYSPARK_PYTHON": sys.executable, "PYTHONPATH": str(root)}
    builder = SparkSession.builder.appName("index")
    for line in (root / "conf" / "spark" / "dev.conf").read_text().splitlines():
        if line.strip() and not line.startswith("#"):
            builder = builder.config(*line.split(None, 1))
    jars = ",".join(map(str, sorted((root / ".cache" / "jars").glob("*.jar"))))
    builder = builder.config("spark.jars", jars).config("spark.local.dir", str(folder))
    session = builder.master(f"local[{threads}]").config("spark.driver.memory", "4g").getOrCreate()
    session.sparkContext.setLogLevel("ERROR")
    return session


def write_tables(night, vectors: np.ndarray, version: str) -> None:
    """A content and an item for each vector, as Parquet tables of the product."""
    rows, dim = vectors.shape
    keys = [f"{n:064x}" for n in range(rows)]
    offsets = pa.array(np.arange(0, rows * dim + 1, dim, dtype=np.int32))
    none = {name: pa.nulls(rows, pa.string()) for name in ("image_key", "image_digest", "reason", "detail")}
    lists = pa.nulls(rows, pa.list_(pa.float32()))
    constant = {"encoder_id": "e", "outcome": "embedded", "transient": False, "run_id": "r", "embedded_at": NOW}
    embeddings = pa.table(
        {
            "content_key": keys,
            "title_hash": keys,
            "image_vector": lists,
            "text_vector": pa.array([[1.0]] * rows, pa.list_(pa.float32())),
        }
        | {"fused_vector": pa.ListArray.from_arrays(offsets, pa.array(vectors.ravel()))}
        | {name: pa.repeat(pa.scalar(value), rows) for name, value in constant.items()}
        | none
    )
    for old in Path(night.warehouse.embeddings.path).glob("part-*/_SUCCESS"):
        old.unlink()
    target = Path(night.warehouse.embeddings.path) / f"part-{version}"
    target.mkdir(parents=True)
    for start in range(0, rows, 20_000):
        pq.write_table(embeddings.slice(start, 20_000), target / f"{start}.parquet")
    (target / "_SUCCESS").touch()
    items = night.spark.createDataFrame([], night.warehouse.items().schema)
    made = night.spark.read.parquet(str(target)).select("content_key", "embedded_at", "run_id")
    renamed = made.selectExpr("content_key as item_id", "content_key", "embedded_at as served_at", "run_id")
    frame = items.unionByName(renamed, allowMissingColumns=True)
    night.run.write("embed", {"items_version": night.warehouse.items().overwrite(frame, version)})


def search_walks(walks: Sequence[Walk]) -> Search:
    places = [dict(zip(walk.labels.tolist(), range(len(walk.labels)), strict=True)) for walk in walks]

    def search(query: np.ndarray, ef: int) -> tuple[np.ndarray, int]:
        scores, compared = [], 0
        for walk, place_of in zip(walks, places, strict=True):
            labels, count = walk.search(query, K, ef)
            scores.append(walk.vectors[[place_of[label] for label in labels.tolist()]] @ query)
            compared += count
        return np.sort(np.concatenate(scores))[::-1][:K], compared

    return search


def measure(search: Search, queries: np.ndarray, exact: np.ndarray) -> dict[str, float]:
    """At the smallest ef whose recall@10 reaches the target; see `at_target`."""
    curve: list[dict[str, float]] = []
    for ef in EFS:
        found = [search(query, ef) for query in queries]
        recall = float(recalls(np.array([scores for scores, _ in found]), exact).mean())
        curve.append({"ef": ef, "recall": recall, "compared": float(np.mean([count for _, count in found]))})
        if recall >= TARGET:
            break
    return at_target(curve)


def at_target(curve: list[dict[str, float]]) -> dict[str, float]:
    """The first point that reaches the target, with the vectors compared at the target itself, by interpolation."""
    place = next((n for n, point in enumerate(curve) if point["recall"] >= TARGET), len(curve) - 1)
    before, point = curve[max(0, place - 1)], curve[place]
    if not before["recall"] < TARGET < point["recall"]:
        return point
    share = (TARGET - before["recall"]) / (point["recall"] - before["recall"])
    return point | {"compared": before["compared"] + share * (point["compared"] - before["compared"])}


def growth(rows: int, dim: int, threads: int) -> dict[str, list[dict[str, float]]]:
    """One graph at a twentieth, a fifth and all of its rows."""
    queries, looks = clustered(200, dim, 2), []
    index = hnswlib.Index("ip", dim)
    index.init_index(rows, M, EF_CONSTRUCTION, 42)
    vectors, seconds = np.empty((0, dim), np.float32), 0.0
    for size in (rows // 20, rows // 5, rows):
        vectors = np.concatenate([vectors, clustered(size - len(vectors), dim, size)])
        started = time.process_time()
        for start in range(index.get_current_count(), size, 10_000):
            index.add_items(vectors[start : start + 10_000], num_threads=threads)
        seconds += time.process_time() - started
        found = measure(search_walks([Walk.of(index)]), queries, exact_search(vectors, queries, K)[1])
        looks.append({"rows": size, "cpu_ms_a_vector": 1000 * seconds / size, **found})
        print(looks[-1], file=sys.stderr)
    return {"growth": looks}


def others(folder: Path, rows: int, dim: int, threads: int) -> dict[str, dict[str, float]]:
    """Seconds to build, and at the target recall the vectors compared, of hnswlib, faiss and usearch."""
    vectors, queries = clustered(rows, dim, 1), clustered(200, dim, 2)
    exact = exact_search(vectors, queries, K)[1]
    raw, took = build_raw(vectors, threads)
    ours = {"seconds": took.clock, "cpu_seconds": took.cpu} | measure(search_walks([Walk.of(raw)]), queries, exact)
    python = environment(folder, OTHERS, vectors=vectors, queries=queries, exact=exact)
    script = str(Path(__file__).with_name("other_libraries.py"))
    command = [python, script, str(folder), *map(str, (M, EF_CONSTRUCTION, threads, *EFS))]
    theirs = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    points = {
        name: {key: made[key] for key in ("seconds", "cpu_seconds")} | at_target(made["curve"])
        for name, made in theirs.items()
    }
    return {f"hnswlib {version('hnswlib')}": ours} | points


def environment(folder: Path, packages: Sequence[str], **arrays: np.ndarray) -> str:
    """A Python that has these packages alone, and beside it the arrays as files."""
    for name, values in arrays.items():
        np.save(folder / f"{name}.npy", values)
    uv, python = [str(Path(sys.executable).with_name("uv"))], str(folder / "venv" / "bin" / "python")
    subprocess.run([*uv, "venv", "--quiet", "--python", sys.executable, str(folder / "venv")], check=True)
    subprocess.run([*uv, "pip", "install", "--quiet", "--python", python, *packages], check=True)
    return python


def peers(folder: Path, rows: int, dim: int, shards: int, threads: int) -> dict[str, dict]:
    """Seconds to build shards by Spark and what the same queries cost, of the product and of autofaiss."""
    vectors, queries = clustered(rows, dim, 1), clustered(200, dim, 2)
    exact = exact_search(vectors, queries, K)[1]
    with SparkBuild(folder, vectors, shards, threads) as spark:
        took = spark.build(rows)
    found = measure(search_walks([Walk.of(shard.graph) for shard in spark.opened()]), queries, exact)
    python = environment(folder, PEERS, vectors=vectors, queries=queries, exact=exact)
    command = [python, "-m", "benchmarks.peer_autofaiss", str(folder)]
    command += map(str, (M, EF_CONSTRUCTION, shards, threads, *EFS))
    root = Path(__file__).resolve().parents[1]
    theirs = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=root).stdout)
    theirs |= at_target(theirs.pop("curve"))
    files = [read_by_hnswlib(path, dim) for path in (folder / "autofaiss" / "made").rglob("knn.index")]
    theirs |= {"files": len(files), "read_by_hnswlib": sum(files)}
    return {"samestyle": {"seconds": took.clock, "cpu_seconds": took.cpu} | found, "autofaiss": theirs}


def read_by_hnswlib(path: Path, dim: int) -> bool:
    try:
        hnswlib.Index("ip", dim).load_index(str(path))
    except RuntimeError:
        return False
    return True


class Nights:
    """Shards of nodes, night after night: number -> (nodes in the order of insertion, is it frozen)."""

    def __init__(self, rows: int, shard_rows: int) -> None:
        self.limits = Limits(shard_rows, 0.3, 0.03)
        self.rng = np.random.default_rng(5)
        self.living = np.zeros(0, dtype=bool)  # by node
        self.shards: dict[int, tuple[np.ndarray, bool]] = {}
        self.inserted: list[int] = []
        self.night(rows, 0, 0)

    def night(self, new: int, gone: int, returned: int) -> None:
        """What goes are runs of neighbouring nodes, as when a supplier ends; a part of what is gone comes back."""
        nodes = len(self.living)
        held = np.zeros(nodes + new, dtype=bool)
        for members, _ in self.shards.values():
            held[members] = True
        alive = np.flatnonzero(self.living)
        if gone:
            starts = self.rng.integers(len(alive), size=20)
            self.living[alive[(starts[:, None] + np.arange(gone // 20)).ravel() % len(alive)]] = False
        dead = np.flatnonzero(~self.living)
        self.living[self.rng.permutation(dead)[:returned]] = True
        self.living = np.concatenate([self.living, np.ones(new, dtype=bool)])
        parent = [Segment(n, "", len(m), int(self.living[m].sum()), frozen) for n, (m, frozen) in self.shards.items()]
        fresh = np.flatnonzero(self.living & ~held)
        plan = plan_segments(parent, {"": len(fresh)}, self.limits)
        moved = [self.shards[s.number][0] for s in (*plan.reopened, *plan.dissolved)]
        pool = self.rng.permutation(np.concatenate([fresh, *[m[self.living[m]] for m in moved]]))
        self.shards = {s.number: self.shards[s.number] for s in plan.kept}
        for filling in plan.fillings:
            for place in range(filling.count):
                part = pool[place * filling.rows : (place + 1) * filling.rows]
                self.shards[filling.first + place] = part, filling.frozen(place)
        self.inserted.append(plan.inserted)


def nights(folder: Path, rows: int, dim: int, shards: int, count: int) -> dict[str, float]:
    """The shards after a third, two thirds and all of these nights; of the looks, the one that costs most."""
    shop = Nights(rows, rows // shards)
    looks = []
    for night in range(1, count + 1):
        shop.night(rows * 7 // 1000, rows // 100, rows * 3 // 1000)
        if night % (count // 3) == 0:
            looks.append(look(shop, dim))
            print(looks[-1], file=sys.stderr)
    inserted = np.array(shop.inserted[1:]) / rows
    worst = max(looks, key=lambda found: found["compared_ratio"])
    return {"inserted_share_a_night": inserted.mean(), "inserted_share_worst_night": inserted.max()} | worst


def look(shop: Nights, dim: int) -> dict[str, float]:
    """The shards as they are against a fresh build of what lives, with the same rows a shard."""
    vectors, queries = clustered(len(shop.living), dim, 1), clustered(200, dim, 2)
    living = np.flatnonzero(shop.living)
    exact = exact_search(vectors[living], queries, K)[1]
    kept = [members for members, _ in shop.shards.values()]
    fresh = np.array_split(np.random.default_rng(3).permutation(living), -(-len(living) // shop.limits.rows))
    after = measure(search_walks([built(vectors, m, shop.living) for m in kept]), queries, exact)
    anew = measure(search_walks([built(vectors, m, shop.living) for m in fresh]), queries, exact)
    return {
        "shards": len(kept),
        "fresh_shards": len(fresh),
        "dead_share": 1 - len(living) / sum(map(len, kept)),
        **{f"nights_{name}": value for name, value in after.items()},
        **{f"fresh_{name}": value for name, value in anew.items()},
        "compared_ratio": after["compared"] / anew["compared"],
    }


def built(vectors: np.ndarray, nodes: np.ndarray, living: np.ndarray) -> Walk:
    index = hnswlib.Index("ip", vectors.shape[1])
    index.init_index(len(nodes), M, EF_CONSTRUCTION, 42)
    index.add_items(vectors[nodes], nodes, num_threads=1)
    return Walk.of(index, nodes[~living[nodes]])


def memory(rows: int, dim: int) -> dict[str, float]:
    """In a process of its own, as a worker is one."""
    command = [sys.executable, "-m", "benchmarks.index", "one", "--rows", str(rows), "--dim", str(dim)]
    figures = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return figures | {"peak_by_plan": figures["peak_mib"] / figures["plan_mib"]}


def one_shard(folder: Path, rows: int, dim: int) -> dict[str, float]:
    graph = GraphParameters(dim, M, 40, 42)
    build_shard(node_batches(rows, dim), rows, graph, folder / "graph", folder / "items")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"peak_mib": peak, "plan_mib": graph.build_bytes(rows) / 2**20, "bytes_a_vector": graph.bytes_per_vector()}


def node_batches(rows: int, dim: int, size: int = 256) -> Iterator[pa.RecordBatch]:
    """Each node's row and its one item's, in batches of Arrow as a worker gets them."""
    for start in range(0, rows, size):
        labels = np.arange(start, min(rows, start + size))
        vectors = clustered(len(labels), dim, start)
        both = np.repeat(labels, 2)
        is_node = np.arange(len(both)) % 2 == 0
        offsets = np.concatenate([[0], np.cumsum(is_node * dim)]).astype(np.int32)
        lists = pa.ListArray.from_arrays(pa.array(offsets), pa.array(vectors.ravel()), mask=pa.array(~is_node))
        columns = {"label": both, "node_key": [f"{n:064x}" for n in both], "item_id": [f"item{n}" for n in both]}
        alive = pa.array(np.ones(len(both), bool), mask=is_node)
        yield pa.RecordBatch.from_pydict(columns | {"alive": alive, "vector": lists})


if __name__ == "__main__":
    main()
