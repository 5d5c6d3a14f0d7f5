"""A sample of the catalogue that an encoder is calibrated on, and the candidate that comes out."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from samestyle.encoder.calibration import (
    NOUNS,
    check_calibratable,
    export_calibrated,
    fit_calibration,
    pooled_features,
)
from samestyle.encoder.contents import FETCHES, Content, batches, prepare
from samestyle.encoder.files import EncoderFiles
from samestyle.encoder.registry import local_copy, register
from samestyle.progress import Progress
from samestyle.tables.changes import distinct_contents
from samestyle.tables.policies import decode_limits, fetch_policy
from samestyle.tables.training_data import catalogue_contents
from samestyle.tables.workshop import Workshop

SEED = 0  # of the hash that draws the sample
BATCH = 32


def calibrate(workshop: Workshop) -> dict[str, Any]:
    """Fit the current encoder's projection to the catalogue and register what comes out, as a candidate.

    Returns the record `calibration`. Raises UsageError as `check_calibratable` and `fit_calibration` do.
    """
    base = EncoderFiles.open(local_copy(workshop.store, workshop.encoder.encoder_id))
    check_calibratable(base)
    size, counted = base.manifest["identity"]["preprocessing"]["image"]["size"], [0, 0]
    drawn = sample(catalogue_contents(workshop), workshop.settings.calibrate.rows).cache()
    with Progress("calibrate", drawn.count(), lambda: (counted[0], counted[1])):
        rows = shown(workshop, drawn, size, counted)
        features = pooled_features(rows, size, workshop.settings.encoder.threads)
    drawn.unpersist()
    catalogue = workshop.settings.catalogue
    calibration = fit_calibration(features, catalogue.table or Path(str(catalogue.path)).name)
    folder = workshop.run.path / "encoder"
    encoder_id = export_calibrated(folder, base, calibration)
    workshop.lease.check()
    register(workshop.store, folder)
    fitted = {"fitted_on": calibration.counts, "kept": calibration.kept, "contents": counted[0], "unusable": counted[1]}
    return {"encoder_id": encoder_id, "from": base.encoder_id, **fitted}


def sample(contents: DataFrame, rows: int) -> DataFrame:
    """At most `rows` contents, in the order of their keys: the same ones of the same catalogue."""
    drawn = F.xxhash64("content_key", F.lit(SEED))
    keys = contents.select("content_key").distinct().orderBy(drawn, "content_key").limit(rows)
    return distinct_contents(contents.join(F.broadcast(keys), "content_key", "left_semi")).orderBy("content_key")


def shown(
    workshop: Workshop, contents: DataFrame, size: int, counted: list[int]
) -> Iterator[tuple[str | None, np.ndarray | None]]:
    """Title and decoded photo of each content. counted: contents, and those of them whose photo cannot be had."""
    policy, limits = fetch_policy(workshop.settings), decode_limits(workshop.settings)
    rows = (Content(row["title"], row["image"], row["image_uri"]) for row in contents.toLocalIterator())
    with ThreadPoolExecutor(FETCHES) as pool:
        for batch in batches(rows, BATCH):
            outcomes = list(pool.map(lambda content: prepare(content, policy, limits, size), batch))
            yield from ((one.title, outcome.pixels) for one, outcome in zip(batch, outcomes, strict=True))
            counted[0] += len(batch)
            counted[1] += sum(outcome.reason is not None for outcome in outcomes)


def closing_lines(record: dict[str, Any]) -> list[str]:
    first, new = record["from"], record["encoder_id"]
    used = " and ".join(f"{count:,} {NOUNS[side]}" for side, count in record["fitted_on"].items())
    if new == first:
        return [f"calibrate: encoder {first} is calibrated on this sample already"]
    return [
        *(f"calibrate: {NOUNS[side]} keep their projection: {reason}" for side, reason in record["kept"].items()),
        f"calibrate: candidate {new}, fitted on {used}; {first} stays the current one",
        f"next: ./spark-submit.sh evaluate_encoder --encoder {new} --against {first}, to see whether it is better",
        f"then: ./spark-submit.sh backfill --encoder {new} and `samestyle encoders promote {new}`",
    ]
