"""The embedding UDF: a content's title and photo in, its outcome out. The model is loaded once a worker."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from pyspark.sql.functions import pandas_udf

from samestyle.catalogue.fetch import FetchPolicy
from samestyle.catalogue.images import DecodeLimits
from samestyle.encoder.contents import Content, Outcome, embed_contents
from samestyle.encoder.registry import EncoderReference
from samestyle.encoder.runtime import VIEWS
from samestyle.tables.schemas import OUTCOME

Columns = tuple[pd.Series, pd.Series, pd.Series, pd.Series]


def embed_udf(
    encoder: EncoderReference,
    policy: FetchPolicy,
    limits: DecodeLimits,
    batch_size: int,
    threads: int,
    count: Callable[[int, int], None],
) -> Any:
    """A pandas UDF of (title string, image binary, image_uri string, known_digest string) -> struct<OUTCOME>.

    A vector that there is none of comes as an empty list.

    count(rows, rejected) is told of every Arrow batch: accumulators, for the driver's progress line.
    """

    @pandas_udf(f"struct<{as_struct(OUTCOME)}>")  # type: ignore[call-overload]
    def embed(batches: Iterator[Columns]) -> Iterator[pd.DataFrame]:
        loaded = encoder.load(threads)
        for columns in batches:
            contents = [Content(*map(none_if_null, row)) for row in zip(*columns, strict=True)]
            outcomes = list(embed_contents(contents, loaded, policy, limits, batch_size))
            count(len(outcomes), sum(o.outcome == "rejected" for o in outcomes))
            yield outcome_frame(outcomes, loaded.dim)

    return embed.asNondeterministic()  # or the optimiser may run it once for each field that is selected


def as_struct(ddl: str) -> str:
    return ", ".join(": ".join(part.split(None, 1)) for part in ddl.strip().split(", "))


def none_if_null(value: Any) -> Any:
    return None if value is None or value is pd.NA or isinstance(value, float) else value


def outcome_frame(outcomes: list[Outcome], dim: int) -> pd.DataFrame:
    """Outcomes as the columns of OUTCOME; vectors as Arrow lists over one flat buffer, twice as fast as arrays."""
    frame = pd.DataFrame(
        {name: [getattr(o, name) for o in outcomes] for name in ("image_digest", "outcome", "reason", "detail")}
        | {"transient": [o.transient for o in outcomes]}
    )
    for view in VIEWS:
        frame[f"{view}_vector"] = vector_series([o.vectors[view] for o in outcomes], dim)
    return frame


def vector_series(vectors: list[np.ndarray | None], dim: int) -> pd.Series:
    """A missing vector is an empty list, which SQL turns into null: pyspark cannot convert a null list of this kind."""
    present = [v for v in vectors if v is not None]
    flat = np.concatenate(present or [np.empty(0)]).astype(np.float32)
    offsets = np.cumsum([0, *(0 if v is None else dim for v in vectors)]).astype(np.int32)
    lists = pa.ListArray.from_arrays(pa.array(offsets), pa.array(flat))
    return pd.Series(pd.arrays.ArrowExtensionArray(lists))  # type: ignore[attr-defined]
