"""Time by the clock and of CPU; needs nothing but Python, so that every environment can start it."""

import os
import time
from contextlib import suppress
from pathlib import Path


class Stopwatch:
    """Seconds since it was made: by the clock, and of CPU, by this process and by all below it that still run."""

    def __init__(self) -> None:
        self.started, self.before = time.monotonic(), cpu_seconds(os.getpid())

    def stop(self) -> "Stopwatch":
        self.clock, self.cpu = time.monotonic() - self.started, cpu_seconds(os.getpid()) - self.before
        return self


def cpu_seconds(pid: int) -> float:
    """Of a process and those below it, as Linux counts them: each with those that it has waited for."""
    parents, ticks = {}, {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # processes end while they are counted
            fields = path.read_text().rpartition(")")[2].split()
            parents[int(path.parent.name)], ticks[int(path.parent.name)] = int(fields[1]), sum(map(int, fields[11:15]))
    own, before = {pid}, 0
    while len(own) > before:
        before = len(own)
        own |= {process for process, parent in parents.items() if parent in own}
    return sum(ticks.get(process, 0) for process in own) / os.sysconf("SC_CLK_TCK")
