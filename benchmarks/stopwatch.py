"""Time by the clock and of CPU; needs nothing but Python, so that every environment can start it."""

import os
import time
from contextlib import suppress
from pathlib import Path


class Stopwatch:
    """Seconds since it was made: by the clock, and of CPU, by this process and by all below it that still run."""

    def __init__(self) -> None:
        self.started, self.before = time.monotonic(), cpu_by_process(os.getpid())

    def stop(self) -> "Stopwatch":
        self.clock = time.monotonic() - self.started
        # By process: workers of Spark that had nothing to do for a minute are gone, with what they had used before.
        now = cpu_by_process(os.getpid())
        self.cpu = sum(seconds - self.before.get(process, 0) for process, seconds in now.items())
        return self


def cpu_seconds(pid: int) -> float:
    """Of a process and of all below it that still run."""
    return sum(cpu_by_process(pid).values())


def cpu_by_process(pid: int) -> dict[int, float]:
    """Of a process and of each below it, as Linux counts them: with those that it has waited for."""
    parents, ticks = {}, {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # processes end while they are counted
            fields = path.read_text().rpartition(")")[2].split()
            parents[int(path.parent.name)], ticks[int(path.parent.name)] = int(fields[1]), sum(map(int, fields[11:15]))
    own, before = {pid}, 0
    while len(own) > before:
        before = len(own)
        own |= {process for process, parent in parents.items() if parent in own}
    return {process: ticks.get(process, 0) / os.sysconf("SC_CLK_TCK") for process in own}
