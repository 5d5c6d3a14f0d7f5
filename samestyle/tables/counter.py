"""What workers count for the driver's progress line. It travels to them, so it imports nothing of ours."""

from collections.abc import Mapping
from typing import Any


class Counter:
    """Rows and rejects that executors report while they work. A retried task counts twice: for people, not for sums.

    stages: of which workers say how many seconds they were busy.
    """

    def __init__(self, context: Any, stages: tuple[str, ...] = ()) -> None:
        self.rows, self.rejected = context.accumulator(0), context.accumulator(0)
        self.seconds = {stage: context.accumulator(0.0) for stage in stages}

    def add(self, rows: int, rejected: int, busy: Mapping[str, float] | None = None) -> None:
        self.rows.add(rows)
        self.rejected.add(rejected)
        for stage, seconds in (busy or {}).items():
            self.seconds[stage].add(seconds)

    def values(self) -> tuple[int, int]:
        return self.rows.value, self.rejected.value

    def busy(self) -> dict[str, float]:
        return {stage: seconds.value for stage, seconds in self.seconds.items()}

    def limit(self) -> str | None:
        """The stage that was busy for longest, so that the others waited for it; None before anything is counted."""
        busy = self.busy()
        return max(busy, key=lambda stage: busy[stage]) if any(busy.values()) else None
