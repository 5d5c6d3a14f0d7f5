"""What a person sees while a stage runs: done, rows a second, rejects, what limits, time left. One line, redrawn."""

import math
import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import TextIO


def say(text: str, stream: TextIO | None = None) -> None:
    print(f"samestyle: {text}", file=stream or sys.stdout, flush=True)


def at_most_every(seconds: float, tell: Callable[[str], None]) -> Callable[[str], None]:
    """Like `tell`, but silent for some seconds after each text: for whoever reports every small step."""
    last = -math.inf

    def seldom(text: str) -> None:
        nonlocal last
        if time.monotonic() - last >= seconds:
            last = time.monotonic()
            tell(text)

    return seldom


class Progress:
    """Prints `progress()` -> (rows done, rows rejected) while the block runs, and one closing line.

    total: rows to do. limit(): what the others wait for, if that is known. In a terminal the line is redrawn every half
    second, in a log it appears every 15 seconds.
    """

    def __init__(
        self,
        stage: str,
        total: int,
        progress: Callable[[], tuple[int, int]],
        stream: TextIO = sys.stdout,
        limit: Callable[[], str | None] = lambda: None,
    ) -> None:
        self.stage, self.total, self.progress, self.stream, self.limit = stage, total, progress, stream, limit
        self.started = time.monotonic()
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self._repeat, daemon=True)

    def __enter__(self) -> "Progress":
        self.thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        self.ended.set()
        self.thread.join()
        if kind is None:
            self._draw("\n")

    def line(self) -> str:
        done, rejected = self.progress()
        seconds = max(time.monotonic() - self.started, 1e-9)
        rate = done / seconds
        parts = [f"{self.stage} {done:,} of {self.total:,}", f"{rate:,.0f} rows/s", f"{rejected:,} rejected"]
        limit = self.limit()
        if limit:
            parts.append(f"limited by {limit}")
        if done and done < self.total:
            parts.append(f"{clock((self.total - done) / rate)} left")
        else:
            parts.append(clock(seconds))
        return "samestyle: " + " · ".join(parts)

    def _repeat(self) -> None:
        every = 0.5 if self.stream.isatty() else 15
        while not self.ended.wait(every):
            self._draw("" if self.stream.isatty() else "\n")

    def _draw(self, end: str) -> None:
        start = "\r\033[K" if self.stream.isatty() else ""
        print(start + self.line(), end=end, file=self.stream, flush=True)


def clock(seconds: float) -> str:
    """Seconds as 4 s, 2:05 min or 3:10:00 h."""
    minutes, rest = divmod(round(seconds), 60)
    if not minutes:
        return f"{rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02} h" if hours else f"{minutes}:{rest:02} min"
