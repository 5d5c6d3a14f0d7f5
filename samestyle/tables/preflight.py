"""Checks of the catalogue against what serves now, before anything is written."""

from dataclasses import dataclass

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from samestyle.errors import RefusedError
from samestyle.settings import Preflight
from samestyle.tables.io import only_row


@dataclass(frozen=True)
class CatalogueFacts:
    """Counts that the preflight judges. `missing`: served items of the baseline that the catalogue lacks."""

    rows: int
    duplicates: int
    served: int
    missing: int


def catalogue_facts(rows: DataFrame, baseline: DataFrame) -> CatalogueFacts:
    counted = only_row(
        rows.agg(
            F.count("*").alias("rows"),
            F.count_if(F.col("duplicate") & F.col("item_id").isNotNull()).alias("duplicates"),
        )
    )
    here = rows.select("item_id").distinct().withColumn("here", F.lit(True))
    served = baseline.where("content_key is not null").select("item_id").join(here, "item_id", "left")
    compared = only_row(served.agg(F.count("*").alias("served"), F.count_if(F.col("here").isNull()).alias("missing")))
    return CatalogueFacts(counted["rows"], counted["duplicates"], compared["served"], compared["missing"])


def check_catalogue(facts: CatalogueFacts, limits: Preflight) -> None:
    """Raises RefusedError for a catalogue that would take half the shop off the site."""
    problems = []
    if facts.rows == 0:
        problems.append("the catalogue is empty; check catalogue.path or catalogue.table")
    if facts.served and facts.missing / facts.served > limits.shrink_max:
        problems.append(
            f"{facts.missing:,} of {facts.served:,} served items ({facts.missing / facts.served:.0%}) are missing from "
            f"the catalogue, at most {limits.shrink_max:.0%} may be; if that is meant, set preflight.shrink_max"
        )
    if facts.rows and facts.duplicates / facts.rows > limits.duplicates_max:
        problems.append(
            f"{facts.duplicates:,} of {facts.rows:,} rows ({facts.duplicates / facts.rows:.0%}) repeat an item_id, "
            f"at most {limits.duplicates_max:.0%} may; is catalogue.columns.item_id the right column?"
        )
    if problems:
        raise RefusedError("preflight refused, nothing was written: " + "; ".join(problems))
