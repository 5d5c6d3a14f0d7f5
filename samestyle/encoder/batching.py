"""How many rows a device takes at once, which its memory decides and nobody knows beforehand."""

import threading

# Batches that go well before a larger one is tried again: a failed try costs about one batch.
PATIENCE = 16


class BatchSize:
    """Half as many rows after memory ran out, twice as many after PATIENCE batches in a row that went well.

    Whoever else used the device may be gone by then. May be called from several threads.
    """

    def __init__(self) -> None:
        self._cap: int | None = None  # None: as many as are asked for
        self._well = 0
        self._lock = threading.Lock()

    def at_most(self, wanted: int) -> int:
        """How many of `wanted` rows to try."""
        with self._lock:
            return wanted if self._cap is None else min(wanted, self._cap)

    def failed(self, rows: int) -> None:
        """Memory ran out with so many."""
        with self._lock:
            self._cap, self._well = max(1, rows // 2), 0

    def worked(self, wanted: int) -> None:
        """A batch went well where `wanted` rows would have been welcome."""
        with self._lock:
            if self._cap is None:
                return
            self._well += 1
            if self._well == PATIENCE:
                self._cap, self._well = 2 * self._cap, 0
                if self._cap >= wanted:
                    self._cap = None
