"""Embedding on workers: contents in, their outcomes out. The model is loaded once a worker."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import numpy as np
import pandas as pd
import pyarrow as pa
from pyspark import TaskContext
from pyspark.sql import Column
from pyspark.sql.functions import pandas_udf

from samestyle.catalogue.decoder import supervised_decoder
from samestyle.encoder.contents import Content, Decode, Outcome, batches
from samestyle.encoder.pipeline import Count, Embedded, Model, Pipeline, in_order
from samestyle.errors import UsageError
from samestyle.tables.schemas import CONTENT, CONTENT_KEYS, OUTCOME

TOLD = ("image_digest", "outcome", "reason", "detail", "transient")
Columns = tuple[pd.Series, pd.Series]


class EncoderSource(Protocol):
    """What travels to workers in place of the model, such as registry.EncoderReference."""

    def load(self, threads: int = 1) -> Model: ...

    def load_on(self, device: str, precision: str) -> Model: ...


def embed_udf(
    encoder: EncoderSource, pipeline: Pipeline, count: Count
) -> Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    """For mapInArrow over schemas.CONTENT; yields schemas.ATTEMPT, a row a content, as they become ready.

    count(rows, rejected, busy seconds by stage) is told of every group: accumulators, for the driver's progress line.
    """

    def embed(record_batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        model = loaded(encoder, pipeline)
        with task_decoder(pipeline, model.image_size) as decode:
            for embedded in pipeline.run(contents_of(record_batches), model, count, decode):
                yield outcome_batch(embedded)

    return embed


def column_udf(encoder: EncoderSource, pipeline: Pipeline) -> Any:
    """A pandas UDF of (title string, image binary or its URI) -> struct<OUTCOME>, for columns and for SQL."""

    @pandas_udf(f"struct<{as_struct(OUTCOME)}>")  # type: ignore[call-overload]
    def embed(columns: Iterator[Columns]) -> Iterator[pd.DataFrame]:
        model = loaded(encoder, pipeline)
        with task_decoder(pipeline, model.image_size) as decode:
            embedded = pipeline.run(contents_in_order(columns), model, None, decode)
            for rows in batches(in_order(numbered_rows(embedded)), pipeline.batch_size):
                yield outcome_frame(rows, model.views)

    return embed.asNondeterministic()  # or the optimiser may run it once for each field that is selected


def embed_column(title: Column, image: Column, encoder: EncoderSource | None = None, settings: Any = None) -> Column:
    """struct<OUTCOME> of a title and a photo, which is binary or a URI as text: the engine of the nights, as a column.

    settings: a samestyle.settings.Settings, by default those of the environment; file URIs need `images.roots`.
    encoder: by default the one that the next run uses, of the store below `paths.root`; where there is none yet, the
    exported one. Raises UsageError where there is none at all.
    """
    from samestyle.settings import load_settings
    from samestyle.tables.changes import normalised_title
    from samestyle.tables.waves import encoder_in_use, pipeline_of

    settings = settings or load_settings()
    embed = column_udf(encoder or encoder_in_use(settings), pipeline_of(settings))
    return embed(normalised_title(title, settings.embed.max_title_chars), image)


def loaded(encoder: EncoderSource, pipeline: Pipeline) -> Model:
    """The model, on the CPU or on this task's GPU. CUDA begins here, in the worker: it does not survive a fork."""
    if pipeline.device == "cpu":
        return encoder.load(pipeline.threads)
    return encoder.load_on(task_gpu(), pipeline.precision)


def task_gpu() -> str:
    """The device that Spark gave this task; where it hands out none, task i has the i-th that CUDA shows.

    Raises UsageError for an address that is no number: conf/spark/gpus.sh prints what CUDA counts.
    """
    context = TaskContext.get()
    given = context.resources().get("gpu") if context else None
    address = given.addresses[0] if given else str(context.partitionId() if context else 0)
    if not address.isdecimal():
        raise UsageError(f"Spark gave this task the GPU {address!r}, expected a number: conf/spark/gpus.sh prints them")
    return f"cuda:{address}"


def task_decoder(pipeline: Pipeline, size: int) -> AbstractContextManager[Decode | None]:
    """The first attempt of a task may have died of a picture, so the second one decodes in a child process."""
    context = TaskContext.get()
    retried = context is not None and context.attemptNumber() > 0
    return supervised_decoder(pipeline.limits, size) if retried else nullcontext()


# --- rows of Arrow


def contents_of(record_batches: Iterator[pa.RecordBatch]) -> Iterator[Content]:
    for batch in record_batches:
        keys = zip(*(values_of(batch.column(name)) for name in CONTENT_KEYS), strict=True)
        fields = (values_of(batch.column(name)) for name in CONTENT[len(CONTENT_KEYS) :])
        for key, title, image, uri, digest in zip(keys, *fields, strict=True):
            yield Content(title, image, uri, digest, key)


def values_of(column: pa.Array) -> list[Any]:
    """Spark does not check that its strings are UTF-8; what is not gets characters that no URI may have."""
    if not pa.types.is_string(column.type):
        return column.to_pylist()
    try:
        return column.to_pylist()
    except UnicodeDecodeError:
        raw = column.cast(pa.binary()).to_pylist()
        return [None if value is None else value.decode(errors="surrogateescape") for value in raw]


def outcome_batch(embedded: Embedded) -> pa.RecordBatch:
    keys = [[content.key[i] for content in embedded.contents] for i in range(len(CONTENT_KEYS))]  # type: ignore[index]
    arrays = [pa.array(values, pa.string()) for values in keys]
    for name in TOLD:
        values = [getattr(outcome, name) for outcome in embedded.outcomes]
        arrays.append(pa.array(values, pa.bool_() if name == "transient" else pa.string()))
    arrays += [vector_array(vectors) for vectors in embedded.vectors.values()]
    arrays.append(pa.array([outcome.thumbnail for outcome in embedded.outcomes], pa.binary()))
    names = [*CONTENT_KEYS, *TOLD, *(f"{view}_vector" for view in embedded.vectors), "thumbnail"]
    return pa.RecordBatch.from_arrays(arrays, names)


def vector_array(vectors: np.ndarray) -> pa.ListArray:
    """(rows, dim) float32 as lists over one flat buffer, without a copy; null where a row is zero."""
    rows, dim = vectors.shape
    offsets = pa.array(np.arange(0, (rows + 1) * dim, dim, dtype=np.int32))
    flat = pa.array(np.ascontiguousarray(vectors).reshape(-1))
    return pa.ListArray.from_arrays(offsets, flat, mask=pa.array(~vectors.any(axis=1)))


# --- rows of pandas


def contents_in_order(columns: Iterator[Columns]) -> Iterator[Content]:
    """Contents with their number as key."""
    rows = (row for titles, images in columns for row in zip(titles, images, strict=True))
    for number, (title, image) in enumerate(rows):
        data, uri = (image, None) if isinstance(image, bytes | bytearray) else (None, none_if_null(image))
        yield Content(none_if_null(title), bytes(data) if data else None, uri, key=number)


def none_if_null(value: Any) -> Any:
    return None if value is None or value is pd.NA or isinstance(value, float) else value


def numbered_rows(groups: Iterator[Embedded]) -> Iterator[tuple[int, tuple[Outcome, dict[str, np.ndarray]]]]:
    """(number of the content, (outcome, view to vector))."""
    for contents, outcomes, vectors in groups:
        for row, content in enumerate(contents):
            yield content.key, (outcomes[row], {view: values[row] for view, values in vectors.items()})  # type: ignore[misc]


def outcome_frame(rows: Sequence[tuple[Outcome, dict[str, np.ndarray]]], views: Sequence[str]) -> pd.DataFrame:
    """The columns of OUTCOME."""
    frame = {name: [getattr(outcome, name) for outcome, _ in rows] for name in TOLD}
    for view in views:
        vectors = [found[view] for _, found in rows]
        frame[f"{view}_vector"] = [vector if vector.any() else None for vector in vectors]
    return pd.DataFrame(frame)


def as_struct(ddl: str) -> str:
    return ", ".join(": ".join(part.split(None, 1)) for part in ddl.strip().split(", "))
