"""The engine on one device, without Spark, against the best bare loop with the same model, for benchmarks/embed.py.

bare      each thread takes a group of rows, reads and decodes its photos by the threads that decode, and encodes it
engine    samestyle.encoder.pipeline, which also bounds, times, counts and keeps apart what fails
forward   the same groups, decoded before: what the encoder could do if nothing else were slow
decode    the photos alone: what the cores could do if nothing else were slow
"""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from pathlib import Path
from threading import BoundedSemaphore
from typing import Any

import numpy as np

from samestyle.catalogue.images import DecodeLimits, decode_image
from samestyle.encoder.contents import Content, batches
from samestyle.encoder.pipeline import FORWARDS, GROUP, Model, Pipeline
from samestyle.encoder.registry import EncoderFolder
from samestyle.errors import ImageError

Row = tuple[str, str]  # title, path of a photo


def loaded(encoder: Path, device: str, precision: str) -> Model:
    """`cpu` is ONNX Runtime with one thread, `torch` the GPU's code on the CPU, anything else a device of torch."""
    folder = EncoderFolder(encoder.absolute())
    return folder.load() if device == "cpu" else folder.load_on("cpu" if device == "torch" else device, precision)


def ways(model: Model, pipeline: Pipeline, rows: Sequence[Row]) -> dict[str, Callable[[], int]]:
    """Each does the work once and returns how many rows that was."""
    decode = partial(decode_image, limits=pipeline.limits, size=model.image_size)
    first = list(islice(batches(rows, GROUP * pipeline.batch_size), FORWARDS[pipeline.device] + 1))
    ready = [(titles_of(group), [decoded(path, decode) for _, path in group]) for group in first]
    return {
        "bare": partial(bare, model, pipeline, rows, decode),
        "engine": partial(engine, model, pipeline, rows),
        "forward": partial(forward, model, pipeline, ready, len(rows)),
        "decode": partial(decode_all, pipeline, rows, decode),
    }


def bare(model: Model, pipeline: Pipeline, rows: Sequence[Row], decode: Callable[[bytes], np.ndarray]) -> int:
    forwards = FORWARDS[pipeline.device]
    at_encoder = BoundedSemaphore(forwards)
    with ThreadPoolExecutor(pipeline.decodes) as decoders, ThreadPoolExecutor(forwards + 1) as workers:

        def encoded(group: list[Row]) -> int:
            pictures = list(decoders.map(lambda row: decoded(row[1], decode), group))
            with at_encoder:
                model.encode(titles_of(group), pictures, batch_size=pipeline.batch_size)
            return len(group)

        return sum(workers.map(encoded, batches(rows, GROUP * pipeline.batch_size)))


def engine(model: Model, pipeline: Pipeline, rows: Sequence[Row]) -> int:
    contents = (Content(title, None, f"file://{path}") for title, path in rows)
    return sum(len(embedded.outcomes) for embedded in pipeline.run(contents, model))


def forward(model: Model, pipeline: Pipeline, ready: Sequence[Any], rows: int) -> int:
    groups = [ready[i % len(ready)] for i in range(max(1, rows // len(ready[0][0])))]
    with ThreadPoolExecutor(FORWARDS[pipeline.device]) as workers:
        list(workers.map(lambda group: model.encode(*group, batch_size=pipeline.batch_size), groups))
    return sum(len(titles) for titles, _ in groups)


def decode_all(pipeline: Pipeline, rows: Sequence[Row], decode: Callable[[bytes], np.ndarray]) -> int:
    with ThreadPoolExecutor(pipeline.decodes) as decoders:
        for group in batches(rows, GROUP * pipeline.batch_size):
            list(decoders.map(lambda row: decoded(row[1], decode), group))
    return len(rows)


def titles_of(group: Sequence[Row]) -> list[str]:
    return [title for title, _ in group]


def decoded(path: str, decode: Callable[[bytes], np.ndarray]) -> np.ndarray | None:
    try:
        return decode(Path(path).read_bytes())
    except ImageError:  # some of the demo's photos are broken on purpose
        return None


def cosines(model: Model, encoder: Path, limits: DecodeLimits, rows: Sequence[Row]) -> dict[str, tuple[float, float]]:
    """{view: (lowest, median)} of the cosines between the device's vectors and those of ONNX Runtime on the CPU."""
    decode = partial(decode_image, limits=limits, size=model.image_size)
    titles, pictures = titles_of(rows), [decoded(path, decode) for _, path in rows]
    ours, theirs = (one.encode(titles, pictures) for one in (model, loaded(encoder, "cpu", "fp32")))
    found = {view: np.einsum("nd,nd->n", ours[view], theirs[view])[ours[view].any(axis=1)] for view in model.views}
    return {view: (float(values.min()), float(np.median(values))) for view, values in found.items()}


def timed(work: Callable[[], int]) -> tuple[int, float, float]:
    """Rows, seconds, and seconds of CPU of this process."""
    started, spent = time.perf_counter(), time.process_time()
    rows = work()
    return rows, time.perf_counter() - started, time.process_time() - spent
