"""faiss and usearch on the vectors of `benchmarks.index others`, which starts this with a Python that has them.

    python other_libraries.py FOLDER M EF_CONSTRUCTION THREADS EF...

FOLDER holds vectors.npy and queries.npy, (n, dim) float32, and exact.npy, the k best cosines of a query. Prints JSON:
library -> seconds to build, and for each ef the recall@k and how many vectors a query is compared with.
"""

import json
import sys
import time
from pathlib import Path

import faiss
import numpy as np
import usearch
from usearch.index import Index

TIE = 1e-6


def main() -> None:
    folder, (m, ef_construction, threads, *efs) = Path(sys.argv[1]), map(int, sys.argv[2:])
    vectors, queries, exact = (np.load(folder / f"{name}.npy") for name in ("vectors", "queries", "exact"))
    build_both = {
        f"faiss {faiss.__version__}": build_faiss,
        f"usearch {usearch.__version__}": build_usearch,
    }
    figures = {}
    for name, build in build_both.items():
        started, cpu = time.monotonic(), time.process_time()
        search = build(vectors, m, ef_construction, threads)
        took = {"seconds": time.monotonic() - started, "cpu_seconds": time.process_time() - cpu}
        figures[name] = took | {"curve": [point(search, vectors, queries, exact, ef) for ef in efs]}
    print(json.dumps(figures))


def build_faiss(vectors: np.ndarray, m: int, ef_construction: int, threads: int):
    faiss.omp_set_num_threads(threads)
    index = faiss.IndexHNSWFlat(vectors.shape[1], m, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = ef_construction
    index.add(vectors)

    def search(queries: np.ndarray, k: int, ef: int) -> tuple[np.ndarray, int]:
        index.hnsw.efSearch = ef
        faiss.cvar.hnsw_stats.reset()
        labels = index.search(queries, k)[1]
        return labels, faiss.cvar.hnsw_stats.ndis

    return search


def build_usearch(vectors: np.ndarray, m: int, ef_construction: int, threads: int):
    index = Index(ndim=vectors.shape[1], metric="ip", dtype="f32", connectivity=m, expansion_add=ef_construction)
    index.add(np.arange(len(vectors)), vectors, threads=threads)

    def search(queries: np.ndarray, k: int, ef: int) -> tuple[np.ndarray, int]:
        index.expansion_search = ef
        found = index.search(queries, k, threads=1)
        return np.asarray(found.keys).astype(np.int64), found.computed_distances

    return search


def point(search, vectors: np.ndarray, queries: np.ndarray, exact: np.ndarray, ef: int) -> dict[str, float]:
    """An answer is right whose cosine reaches the k-th best, whatever its label."""
    labels, compared = search(queries, exact.shape[1], ef)
    scores = np.einsum("qkd,qd->qk", vectors[labels], queries)
    recall = (scores >= exact.min(axis=1)[:, None] - TIE).mean()
    return {"ef": ef, "recall": float(recall), "compared": compared / len(queries)}


if __name__ == "__main__":
    main()
