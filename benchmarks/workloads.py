"""What benchmarks/embed.py runs in other processes: bare loops, and a model that does nothing for Spark's workers."""

import resource
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import pyarrow as pa

from samestyle.catalogue.images import DecodeLimits, decode_image
from samestyle.encoder.contents import batches
from samestyle.encoder.pipeline import GROUP, Pipeline
from samestyle.encoder.registry import load_cached
from samestyle.errors import ImageError

VIEWS = ("image", "text", "fused")
BATCH = 32
PIXELS = np.zeros((224, 224, 3), np.uint8)
Row = tuple[str, str]  # title, path of a photo


class Identity:
    """Gives three random vectors of 256 floats a row, drawn once, and costs next to nothing."""

    dim, image_size, views = 256, 224, VIEWS

    def __init__(self) -> None:
        drawn = np.random.default_rng(0).standard_normal((8192, self.dim)).astype(np.float32)
        self.drawn = drawn / np.linalg.norm(drawn, axis=1, keepdims=True)
        self.at = 0

    def encode(
        self,
        titles: Sequence[str | None],
        images: Sequence[np.ndarray | None],
        views: Sequence[str] = VIEWS,
        batch_size: int = BATCH,
    ) -> dict[str, np.ndarray]:
        rows, wanted = len(titles), len(titles) * len(views)
        start = self.at if self.at + wanted <= len(self.drawn) else 0
        self.at = start + rows
        return {view: self.drawn[start + i * rows : start + (i + 1) * rows] for i, view in enumerate(views)}


class IdentitySource:
    def load(self, threads: int = 1) -> Identity:
        return identity()


@lru_cache(maxsize=1)
def identity() -> Identity:
    return Identity()


def plumbing(
    pipeline: Pipeline,
    count: Callable[[int, int, Mapping[str, float]], None],
    told_memory: Callable[[float], None],
) -> Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    """For mapInArrow: embed_udf around the identity, photos read and digested but not decoded."""
    from udfs.embed import contents_of, outcome_batch  # not where benchmarks run without Spark

    def embed(record_batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for embedded in pipeline.run(contents_of(record_batches), identity(), count, lambda data: PIXELS):
            yield outcome_batch(embedded)
        told_memory(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)

    return embed


# --- bare loops, in a process of their own


def bare_embedding(encoder: str, rows: list[Row]) -> tuple[float, float]:
    """Seconds, and seconds of CPU, of the shortest loop that makes the same vectors. The first call loads."""
    loaded = load_cached(encoder)
    decode = partial(decode_image, limits=DecodeLimits(), size=loaded.image_size)
    started, spent = time.perf_counter(), time.process_time()
    for group in batches(rows, GROUP * BATCH):
        pictures = [decoded_or_none(path, decode) for _, path in group]
        loaded.encode([title for title, _ in group], pictures, batch_size=BATCH)
    return time.perf_counter() - started, time.process_time() - spent


def decoded_or_none(path: str, decode: Callable[[bytes], np.ndarray]) -> np.ndarray | None:
    try:
        return decode(Path(path).read_bytes())
    except ImageError:  # some of the demo's photos are broken on purpose
        return None
