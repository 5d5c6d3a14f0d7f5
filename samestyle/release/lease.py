"""A lock with an owner and an end: two runs never write at once, and a dead run's lock frees itself."""

import json
import os
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from samestyle.errors import ConflictError, IntegrityError, SamestyleError
from samestyle.release.store import Store

# The lease of everything that writes tables or releases.
NIGHTLY = "nightly"


@dataclass(frozen=True)
class Holder:
    """Who holds a lease. `process_space` tells hosts and containers apart that share a host name."""

    host: str
    pid: int
    run_id: str
    started_at: float
    process_space: str

    @classmethod
    def of_this_process(cls, run_id: str, clock: Callable[[], float] = time.time) -> "Holder":
        """The running process, for the run `run_id`."""
        return cls(socket.gethostname(), os.getpid(), run_id, clock(), process_space())

    def is_dead(self) -> bool:
        """True only where that can be told: a process of this very host that is gone."""
        if self.process_space != process_space():
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            return False
        return False

    def __str__(self) -> str:
        return f"run {self.run_id} (process {self.pid} on {self.host}, started {as_text(self.started_at)})"


@dataclass(frozen=True)
class LeaseState:
    """What is stored. The token only grows: it outlives each holder. No holder: free."""

    token: int
    holder: Holder | None
    expires_at: float

    def to_json(self) -> bytes:
        return json.dumps(asdict(self), sort_keys=True).encode()

    @classmethod
    def from_json(cls, key: str, data: bytes) -> "LeaseState":
        try:
            tree: dict[str, Any] = json.loads(data)
            holder = Holder(**tree["holder"]) if tree["holder"] else None
            return cls(int(tree["token"]), holder, float(tree["expires_at"]))
        except (ValueError, TypeError, KeyError) as error:
            raise IntegrityError(
                f"{key} holds {data[:200]!r}, expected a lease as JSON: delete it once no run is active"
            ) from error


class Lease:
    """A held lease. A thread renews it every third of `lease_s`; `check()` says whether it is still ours.

    `token` is larger than that of every holder before. `taken_over`: whose lease ended, and why, or None.
    """

    def __init__(self, store: Store, key: str, state: LeaseState, lease_s: float, clock: Callable[[], float]) -> None:
        self.store, self.key, self.lease_s, self.clock = store, key, lease_s, clock
        self.state = state
        self.taken_over: str | None = None
        self._lost: str | None = None
        self._unsure = False  # whether the last renewal was written
        self._stopped = threading.Event()
        self._turn = threading.Lock()

    @classmethod
    def acquire(
        cls, store: Store, name: str, holder: Holder, lease_s: float, clock: Callable[[], float] = time.time
    ) -> "Lease":
        """Take locks/<name>. Raises ConflictError, naming the holder, while somebody alive has it."""
        key = f"locks/{name}"
        data = store.find(key)
        before = LeaseState.from_json(key, data) if data else LeaseState(0, None, 0.0)
        ended = reason_to_take(before, key, clock())
        state = LeaseState(before.token + 1, holder, clock() + lease_s)
        store.swap(key, data, state.to_json())
        lease = cls(store, key, state, lease_s, clock)
        lease.taken_over = ended
        threading.Thread(target=lease._beat, name=f"lease {name}", daemon=True).start()
        return lease

    @property
    def token(self) -> int:
        return self.state.token

    def renew(self) -> None:
        """Move the end to `lease_s` from now. Raises ConflictError if the lease is no longer ours."""
        with self._turn:
            if self._lost is None and not self._stopped.is_set():
                state = LeaseState(self.state.token, self.state.holder, self.clock() + self.lease_s)
                self._swap(state)
        if self._lost:
            raise ConflictError(self._lost)

    def check(self) -> None:
        """Call before each commit. Raises ConflictError if the lease was lost, so that nothing is written."""
        if self._stopped.is_set():
            raise ConflictError(f"{self.key} was released: acquire it again before writing")
        self.renew()

    def release(self) -> None:
        """Free the lease; the token stays. Does nothing if it is not ours any more."""
        self._stopped.set()
        with self._turn:
            if self._lost is None:
                self._swap(LeaseState(self.state.token, None, self.clock()))

    def _swap(self, state: LeaseState) -> None:
        try:
            self._catch_up()
            self.store.swap(self.key, self.state.to_json(), state.to_json())
            self.state, self._unsure = state, False
        except ConflictError as error:
            self._lost = f"the lock of {self.state.holder} was lost, nothing more is written: {error}"

    def _catch_up(self) -> None:
        """After a renewal that was written though its answer got lost: what is stored then is ours, and later."""
        if self._unsure:
            data = self.store.find(self.key)
            found = LeaseState.from_json(self.key, data) if data else self.state
            if (found.token, found.holder) == (self.state.token, self.state.holder):
                self.state = found
        self._unsure = True

    def _beat(self) -> None:
        while not self._stopped.wait(self.lease_s / 3):
            try:
                self.renew()
            except ConflictError:
                return
            except SamestyleError:
                continue  # the store may be back before the lease ends; check() tells

    def __enter__(self) -> "Lease":
        return self

    def __exit__(self, *exception: object) -> None:
        self.release()


def reason_to_take(state: LeaseState, key: str, now: float) -> str | None:
    """Why another's lease may be taken, None if it was free. Raises ConflictError if it may not."""
    if state.holder is None:
        return None
    if state.holder.is_dead():
        return f"{state.holder} died"
    if state.expires_at <= now:
        return f"{state.holder} was last heard of before {as_text(state.expires_at)}"
    raise ConflictError(
        f"{key} is held by {state.holder}, until {as_text(state.expires_at)} unless it goes on: "
        "wait for that run or stop it; if it is dead, its lock ends by itself at that time"
    )


def process_space() -> str:
    """This boot of this host, and the container on it: only there does a process id mean the same process."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    try:
        return f"{boot.read_text().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return socket.gethostname()


def as_text(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
