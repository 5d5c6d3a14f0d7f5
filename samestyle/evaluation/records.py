"""What an evaluation leaves behind an encoder, so that two encoders can be compared later, on another machine.

encoders/<id>/evaluations/<name>.json        {"format_version": 1, "name", "encoder_id", "evaluated_at", "sets", "mean"}
    sets   name of the set -> {"digest", "about", "directions", "slices"}
               digest: of the queries, the pool and the truth; results are comparable where it is equal
               about: a sentence for people
               directions: "m-m" -> {"mrr", "recall@1", "recall@5", "recall@10", "recall@20", "queries", "pool",
                           "intervals": {"mrr": [low, high], ...}}   (95 %; a direction without queries is left out)
               slices: "Shoes" -> directions again, without pool, for the top level of the queries' category
    mean   "m-m" -> the mean over the sets that have the direction, without intervals; queries and pool are sums
encoders/<id>/evaluations/<name>.parquet     a row a query: set, direction, query_id, mrr, recall@1, ... (RESULTS)

<name> is that of the sets with a digest of their digests (evaluation_name): two encoders have an evaluation of one name
where they were asked the same queries over the same pools, and these two can be compared.
"""

import hashlib
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from samestyle.errors import IntegrityError
from samestyle.evaluation.bootstrap import RESAMPLES, interval
from samestyle.evaluation.directions import DIRECTIONS, KS, Measured

FORMAT_VERSION = 1
METRICS = ("mrr", *(f"recall@{k}" for k in KS))
RESULTS = pa.schema(
    [pa.field(name, pa.string(), nullable=False) for name in ("set", "direction", "query_id")]
    + [pa.field(name, pa.float64(), nullable=False) for name in METRICS]
)
Figures = dict[str, dict[str, Any]]  # direction -> its figures


@dataclass(frozen=True)
class SetResult:
    """What was measured on one set. query_ids, slices: a row a query that was asked, as Ranks.rows counts them; digest:
    equal for two encoders that were asked the same queries over the same pool."""

    name: str
    about: str
    digest: str
    query_ids: list[str]
    slices: list[str | None]
    measured: dict[str, Measured]

    def figures(self, resamples: int = RESAMPLES) -> Figures:
        return {
            direction: finite(measured.aggregates) | {"intervals": intervals(measured.ranks.values, resamples)}
            for direction, measured in self.measured.items()
            if len(measured.ranks.rows)
        }

    def sliced(self, resamples: int = RESAMPLES) -> dict[str, Figures]:
        """By slice, where there are at least two."""
        names = sorted({name for name in self.slices if name})
        if len(names) < 2:
            return {}
        return {name: self._slice(np.array([s == name for s in self.slices]), resamples) for name in names}

    def _slice(self, chosen: np.ndarray, resamples: int) -> Figures:
        figures = {}
        for direction, measured in self.measured.items():
            keep = chosen[measured.ranks.rows]
            values = {metric: found[keep] for metric, found in measured.ranks.values.items()}
            if keep.any():
                means = {metric: float(found.mean()) for metric, found in values.items()}
                figures[direction] = {**means, "queries": int(keep.sum()), "intervals": intervals(values, resamples)}
        return figures

    def rows(self) -> pa.Table:
        """RESULTS of this set."""
        return pa.concat_tables([RESULTS.empty_table(), *(self._rows(name) for name in self.measured)])

    def _rows(self, direction: str) -> pa.Table:
        ranks = self.measured[direction].ranks
        columns = [
            [self.name] * len(ranks.rows),
            [direction] * len(ranks.rows),
            [self.query_ids[r] for r in ranks.rows],
        ]
        return pa.Table.from_arrays([*map(pa.array, columns), *map(pa.array, ranks.values.values())], schema=RESULTS)


def evaluation_name(results: Sequence[SetResult]) -> str:
    """Equal for evaluations that can be compared, and for no others."""
    digests = hashlib.sha256(" ".join(result.digest for result in results).encode()).hexdigest()[:12]
    return "-".join([*(result.name for result in results), digests])


def evaluation_record(
    name: str, encoder_id: str, evaluated_at: str, results: Iterable[SetResult], resamples: int = RESAMPLES
) -> dict[str, Any]:
    """The JSON above."""
    sets: dict[str, dict[str, Any]] = {
        result.name: {
            "digest": result.digest,
            "about": result.about,
            "directions": result.figures(resamples),
            "slices": result.sliced(resamples),
        }
        for result in results
    }
    mean = mean_over_sets([entry["directions"] for entry in sets.values()])
    head = {"format_version": FORMAT_VERSION, "name": name, "encoder_id": encoder_id, "evaluated_at": evaluated_at}
    return {**head, "sets": sets, "mean": mean}


def mean_over_sets(sets: list[Figures]) -> Figures:
    """Each set counts once, however many queries it has."""
    mean = {}
    for direction in DIRECTIONS:
        found = [figures[direction] for figures in sets if direction in figures]
        if found:
            means = {metric: float(np.mean([entry[metric] for entry in found])) for metric in METRICS}
            counts = {count: int(sum(entry[count] for entry in found)) for count in ("queries", "pool")}
            mean[direction] = means | counts
    return mean


def results_bytes(results: Iterable[SetResult]) -> bytes:
    """The Parquet file above."""
    target = io.BytesIO()
    pq.write_table(pa.concat_tables([RESULTS.empty_table(), *(result.rows() for result in results)]), target)
    return target.getvalue()


def read_results(data: bytes) -> pa.Table:
    """RESULTS of a Parquet file. Raises IntegrityError where it is something else."""
    try:
        table = pq.read_table(io.BytesIO(data))
        return table.select(RESULTS.names).cast(RESULTS)
    except (pa.ArrowException, KeyError, ValueError) as error:
        raise IntegrityError(
            f"the results of an evaluation cannot be read ({error}): expected the columns {', '.join(RESULTS.names)}; "
            "run ./spark-submit.sh evaluate_encoder again"
        ) from error


def intervals(values: Mapping[str, np.ndarray], resamples: int) -> dict[str, list[float]]:
    found = {metric: interval(each, resamples=resamples) for metric, each in values.items()}
    return {metric: [one.low, one.high] for metric, one in found.items()}


def finite(aggregates: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in aggregates.items() if np.isfinite(value)}
