"""Two encoders side by side, from what was recorded of each: the difference on the same queries, and how sure it is.

Two evaluations of one name were asked the same queries over the same pools (records.evaluation_name).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from samestyle.evaluation.bootstrap import RESAMPLES, Interval, difference
from samestyle.evaluation.directions import DIRECTIONS

COMPARED = ("mrr", "recall@1", "recall@10")


@dataclass(frozen=True)
class Compared:
    """One metric of one direction. `difference`: second - first, paired by query, with its 95 % interval."""

    set: str
    direction: str
    metric: str
    first: float
    second: float
    difference: Interval
    queries: int

    @property
    def verdict(self) -> str:
        if not self.difference.significant:
            return "no clear difference"
        return "better" if self.difference.mean > 0 else "worse"


@dataclass(frozen=True)
class Change:
    """A query whose first right answer moved. reciprocal ranks."""

    query_id: str
    first: float
    second: float


def compare(
    first: pa.Table, second: pa.Table, metrics: Sequence[str] = COMPARED, resamples: int = RESAMPLES
) -> list[Compared]:
    """Every direction of every set. first, second: records.RESULTS of two encoders, as records.read_results gives them;
    queries that only one of them was asked (the other has no such view) are left out."""
    compared = []
    for name in dict.fromkeys(first["set"].to_pylist()):
        for direction in DIRECTIONS:
            paired = pairs(first, second, name, direction)
            for metric in metrics if paired.num_rows else ():
                ours, theirs = (paired[f"{metric}{side}"].to_numpy() for side in (" first", " second"))
                found = difference(ours, theirs, resamples=resamples)
                means = float(ours.mean()), float(theirs.mean())
                compared.append(Compared(name, direction, metric, *means, found, paired.num_rows))
    return compared


def changes(first: pa.Table, second: pa.Table, name: str, direction: str) -> list[Change]:
    """Queries that one of the encoders answers better, the second's greatest wins first, its greatest losses last."""
    paired = pairs(first, second, name, direction)
    ours, theirs = (paired[f"mrr{side}"].to_numpy() for side in (" first", " second"))
    ids = paired["query_id"].to_pylist()
    order = np.argsort(ours - theirs, kind="stable")
    return [Change(ids[row], float(ours[row]), float(theirs[row])) for row in order if ours[row] != theirs[row]]


def pairs(first: pa.Table, second: pa.Table, name: str, direction: str) -> pa.Table:
    """query_id and each metric twice (`mrr first`, `mrr second`), ordered by query_id."""
    chosen = []
    for table in (first, second):
        rows = table.filter(pc.and_(pc.equal(table["set"], name), pc.equal(table["direction"], direction)))
        chosen.append(rows.drop_columns(["set", "direction"]))
    joined = chosen[0].join(
        chosen[1], "query_id", join_type="inner", left_suffix=" first", right_suffix=" second", use_threads=False
    )
    return joined.sort_by("query_id")
