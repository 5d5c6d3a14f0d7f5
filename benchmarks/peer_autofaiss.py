"""autofaiss's build with Spark of the vectors of `benchmarks.index peers`, which starts this with a Python that has it.

    python -m benchmarks.peer_autofaiss FOLDER M EF_CONSTRUCTION SHARDS THREADS EF...

FOLDER holds vectors.npy and queries.npy, (n, dim) float32, and exact.npy, the k best cosines of a query. Its build of
one index, `build_index(distributed="pyspark")`, cannot make HNSW: it adds vectors with ids and merges what the tasks
made, and faiss's HNSW can do neither. `build_partitioned_indexes` makes an index of each partition, one a task, from an
empty one: given an HNSW within faiss's map of ids, it makes shards, with any ef_construction.

It ends each index by a search for the ef that answers within 10 ms. Prints JSON: seconds as it is, and with next to
none of that search (.01 ms); recall@k and vectors compared at the efs it chose; and for each ef.
"""

import json
import os
import sys
from pathlib import Path

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from autofaiss import build_partitioned_indexes
from pyspark.sql import SparkSession

from benchmarks.stopwatch import Stopwatch

TIE = 1e-6
KEY = "autofaiss"


def main() -> None:
    folder, (m, ef_construction, shards, threads, *efs) = Path(sys.argv[1]), map(int, sys.argv[2:])
    vectors, queries, exact = (np.load(folder / f"{name}.npy") for name in ("vectors", "queries", "exact"))
    folder /= "autofaiss"
    write_empty(folder, vectors.shape[1], m, ef_construction)
    spark = spark_session(threads)
    build(folder, vectors[:1000], shards, 0.01)  # warms
    untuned = build(folder, vectors, shards, 0.01)
    tuned = build(folder, vectors, shards, 10)
    spark.stop()
    indexes = [faiss.read_index(str(path)) for path in sorted((folder / "made").rglob("knn.index"))]
    own = {"ef": [graph(index).efSearch for index in indexes], **point(indexes, queries, exact)}
    figures = {"seconds": tuned.clock, "cpu_seconds": tuned.cpu}
    figures |= {"untuned_seconds": untuned.clock, "untuned_cpu_seconds": untuned.cpu}
    figures |= {f"own_{name}": value for name, value in own.items()}
    print(json.dumps(figures | {"curve": [{"ef": ef, **point(indexes, queries, exact, ef)} for ef in efs]}))


def write_empty(folder: Path, dim: int, m: int, ef_construction: int) -> None:
    folder.mkdir()
    index = faiss.IndexHNSWFlat(dim, m, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = ef_construction
    faiss.write_index(faiss.IndexIDMap2(index), str(folder / "empty.index"))


def spark_session(threads: int) -> SparkSession:
    os.environ |= {"SPARK_LOCAL_IP": "127.0.0.1", "PYSPARK_PYTHON": sys.executable}
    builder = SparkSession.builder.master(f"local[{threads}]").config("spark.driver.memory", "4g")
    return builder.config("spark.ui.enabled", "false").getOrCreate()


def build(folder: Path, vectors: np.ndarray, shards: int, query_ms: float) -> Stopwatch:
    """What building the shards took; a task has one thread."""
    parts = [folder / "parts" / str(part) for part in range(shards)]
    for path, part in zip(parts, np.array_split(vectors, shards), strict=True):
        path.mkdir(parents=True, exist_ok=True)
        lists = pa.FixedSizeListArray.from_arrays(part.ravel(), part.shape[1]).cast(pa.list_(pa.float32()))
        pq.write_table(pa.table({"embedding": lists}), path / "vectors.parquet")
    watch = Stopwatch()
    build_partitioned_indexes(
        list(map(str, parts)),
        str(folder / "made"),
        index_key="HNSW16",  # what to tune; the index is the one at index_path
        index_path=str(folder / "empty.index"),
        max_index_query_time_ms=query_ms,
        max_index_memory_usage="4G",
        current_memory_available="8G",
        temp_root_dir=str(folder / "temporary"),
        nb_cores=1,
        verbose=50,
    )
    return watch.stop()


def graph(index) -> faiss.HNSW:
    return faiss.downcast_index(index.index).hnsw


def point(indexes: list, queries: np.ndarray, exact: np.ndarray, ef: int = 0) -> dict[str, float]:
    """Of all shards, at this ef or each one's own; an answer is right whose cosine reaches the k-th best."""
    faiss.cvar.hnsw_stats.reset()
    scores = []
    for index in indexes:
        graph(index).efSearch = ef or graph(index).efSearch
        scores.append(index.search(queries, exact.shape[1])[0])
    best = np.sort(np.concatenate(scores, axis=1), axis=1)[:, -exact.shape[1] :]
    recall = (best >= exact.min(axis=1)[:, None] - TIE).mean()
    return {"recall": float(recall), "compared": faiss.cvar.hnsw_stats.ndis / len(queries)}


if __name__ == "__main__":
    main()
