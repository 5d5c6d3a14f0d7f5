"""What workers count for the driver's progress line. It travels to them, so it imports nothing of ours."""

from typing import Any


class Counter:
    """Rows and rejects that executors report while they work. A retried task counts twice: for people, not for sums."""

    def __init__(self, context: Any) -> None:
        self.rows, self.rejected = context.accumulator(0), context.accumulator(0)

    def add(self, rows: int, rejected: int) -> None:
        self.rows.add(rows)
        self.rejected.add(rejected)

    def values(self) -> tuple[int, int]:
        return self.rows.value, self.rejected.value
