"""How sure a mean over queries is: percentile bootstrap (B. Efron, 1979), seeded; paired for two encoders."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from samestyle.errors import UsageError

RESAMPLES = 1000
BLOCK = 5_000_000  # values drawn at once, 40 MB


@dataclass(frozen=True)
class Interval:
    """A mean with its 95 % interval."""

    mean: float
    low: float
    high: float

    @property
    def significant(self) -> bool:
        """Whether 0 lies outside; for differences."""
        return self.low > 0 or self.high < 0


def interval(values: np.ndarray, seed: int = 0, resamples: int = RESAMPLES) -> Interval:
    """The mean of a metric over its queries, (queries,) float; nan without queries. The same seed, the same interval.

    >>> interval(np.array([0.0, 1.0] * 50))
    Interval(mean=0.5, low=0.4, high=0.6)
    """
    if len(values) == 0:
        return Interval(np.nan, np.nan, np.nan)
    means = np.concatenate(list(resampled_means(np.asarray(values, float), seed, resamples)))
    low, high = np.percentile(means, [2.5, 97.5])
    return Interval(float(np.mean(values)), float(low), float(high))


def difference(first: np.ndarray, second: np.ndarray, seed: int = 0, resamples: int = RESAMPLES) -> Interval:
    """Paired: second - first of the same queries in the same order, both (queries,) float.

    Raises UsageError where the lengths differ: only the same queries can be paired.
    """
    if len(first) != len(second):
        raise UsageError(
            f"{len(first)} and {len(second)} queries cannot be paired: evaluate both encoders on the same queries"
        )
    return interval(np.asarray(second, float) - np.asarray(first, float), seed, resamples)


def resampled_means(values: np.ndarray, seed: int, resamples: int) -> Iterator[np.ndarray]:
    random = np.random.default_rng(seed)
    step = max(1, BLOCK // len(values))
    for start in range(0, resamples, step):
        rows = random.integers(len(values), size=(min(step, resamples - start), len(values)))
        yield values[rows].mean(axis=1)
