"""Open http(s) connections of this process: used again where they can be, and at most so many to one host."""

import http.client
import os
import select
import threading
import time
from collections import Counter
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

_IDLE_S = 15.0  # shorter than most servers wait
_MOST_IDLE = 64  # to all hosts together: a catalogue may name very many


@dataclass(frozen=True, eq=False)
class _Idle:
    key: Hashable
    since: float
    connection: http.client.HTTPConnection


class Connections:
    """Thread-safe. A key holds all that must be equal for a connection to serve another request."""

    def __init__(self) -> None:
        self._start_empty()
        # Two processes that share a connection would get each other's pictures.
        os.register_at_fork(after_in_child=self._start_empty)

    def _start_empty(self) -> None:
        self._idle: list[_Idle] = []  # the one used last is at the end
        self._used: Counter[str] = Counter()
        self._changed = threading.Condition()

    @contextmanager
    def slot(self, host: str, most: int, ends: float) -> Iterator[None]:
        """Hold one of `host`'s `most` places. Raises TimeoutError where none is free until `ends` (monotonic)."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._used[host] < most, max(0.0, ends - time.monotonic())):
                raise TimeoutError(f"{most} of {most} connections to {host} stayed in use")
            self._used[host] += 1
        try:
            yield
        finally:
            with self._changed:
                self._used[host] -= 1
                if not self._used[host]:
                    del self._used[host]  # so the table stays as small as the work in hand
                self._changed.notify_all()

    def take(self, key: Hashable) -> http.client.HTTPConnection | None:
        """Return an idle connection that its server has not ended, or None."""
        with self._changed:
            self._close_old()
            for idle in [idle for idle in reversed(self._idle) if idle.key == key]:
                self._idle.remove(idle)
                if _is_quiet(idle.connection):
                    return idle.connection
                idle.connection.close()
        return None

    def give(self, key: Hashable, connection: http.client.HTTPConnection) -> None:
        """Keep a connection whose last answer was read to its end."""
        with self._changed:
            self._idle.append(_Idle(key, time.monotonic(), connection))
            self._close_old()

    def _close_old(self) -> None:
        eldest = time.monotonic() - _IDLE_S
        while self._idle and (self._idle[0].since < eldest or len(self._idle) > _MOST_IDLE):
            self._idle.pop(0).connection.close()


def _is_quiet(connection: http.client.HTTPConnection) -> bool:
    """What can be read where nothing was asked is the end, or an answer to nothing."""
    poll = select.poll()
    poll.register(connection.sock, select.POLLIN)
    return not poll.poll(0)
