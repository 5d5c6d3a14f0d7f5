import dataclasses
import subprocess
import sys
import threading

import pytest

from samestyle.errors import ConflictError, IntegrityError
from samestyle.release.lease import Holder, Lease, LeaseState, process_space
from samestyle.release.store import LocalStore, StoreError


class Clock:
    """A clock that stands still until it is told otherwise."""

    now = 1000.0

    def __call__(self):
        return self.now


def holder(run_id, **changes):
    return dataclasses.replace(Holder.of_this_process(run_id, Clock()), **changes)


def elsewhere(run_id):
    return holder(run_id, host="far", process_space="another host")


def acquire(store, who, clock, lease_s=90.0):
    return Lease.acquire(store, "nightly", who, lease_s, clock)


def test_a_second_holder_is_told_who_has_it_since_when_and_until_when(store):
    with acquire(store, holder("first"), Clock()), pytest.raises(ConflictError) as error:
        acquire(store, holder("second"), Clock())
    message = str(error.value)
    assert "run first (process " in message
    assert "started 1970-01-01 00:16:40 UTC" in message
    assert "until 1970-01-01 00:18:10 UTC" in message
    assert error.value.exit_code == 4


def test_a_released_lease_is_free_and_its_token_has_grown(store):
    tokens = []
    for run in ("a", "b", "c"):
        with acquire(store, holder(run), Clock()) as lease:
            lease.check()
            tokens.append(lease.token)
        assert lease.taken_over is None
    assert tokens == [1, 2, 3]


def test_renewing_moves_the_end(store):
    clock = Clock()
    with acquire(store, elsewhere("first"), clock) as lease:
        clock.now += 60
        lease.renew()
        clock.now += 60
        with pytest.raises(ConflictError):
            acquire(store, holder("second"), clock)


def test_an_expired_lease_is_taken_over_and_its_holder_finds_out(store):
    clock = Clock()
    first = acquire(store, elsewhere("first"), clock)
    clock.now += 91
    with acquire(store, holder("second"), clock) as second:
        assert second.token == first.token + 1
        assert "run first" in second.taken_over
        with pytest.raises(ConflictError, match=r"lock of run first .* was lost"):
            first.check()
        first.release()  # must not free the lease of the second
        second.check()


def test_an_expired_lease_that_nobody_took_is_still_ours(store):
    clock = Clock()
    with acquire(store, elsewhere("slow"), clock) as lease:
        clock.now += 1000
        lease.check()
        assert lease.state.expires_at == clock.now + 90


def test_a_dead_process_of_this_host_loses_its_lease_at_once(store):
    child = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    acquire(store, holder("killed", pid=int(child.stdout)), Clock())
    with acquire(store, holder("next"), Clock()) as lease:
        assert lease.taken_over.startswith("run killed")
        assert lease.taken_over.endswith("died")


def test_a_process_number_of_another_host_says_nothing(store):
    child = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    far = dataclasses.replace(elsewhere("far"), pid=int(child.stdout))
    with acquire(store, far, Clock()), pytest.raises(ConflictError, match="run far"):
        acquire(store, holder("next"), Clock())
    assert process_space() != "another host"


def test_of_two_that_take_over_at_once_one_wins(store):
    clock = Clock()
    acquire(store, elsewhere("dead"), clock)
    clock.now += 91
    taken, refused, start = [], [], threading.Barrier(4)

    def take(run):
        start.wait()
        try:
            taken.append(acquire(store, elsewhere(run), clock))
        except ConflictError as error:
            refused.append(error)

    threads = [threading.Thread(target=take, args=(f"r{i}",)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(taken), len(refused)) == (1, 3)
    assert taken[0].token == 2


class NoticingStore(LocalStore):
    """Says when the lease was renewed twice."""

    def __init__(self, root):
        super().__init__(root)
        self.swaps, self.twice = 0, threading.Event()

    def swap(self, key, expected, new):
        super().swap(key, expected, new)
        self.swaps += 1
        if self.swaps == 3:
            self.twice.set()


def test_the_heartbeat_renews_by_itself(tmp_path):
    store, clock = NoticingStore(tmp_path), Clock()
    lease = acquire(store, holder("alive"), clock, lease_s=0.03)
    clock.now += 50
    store.twice.wait()
    assert LeaseState.from_json("", store.get("locks/nightly")).expires_at == clock.now + 0.03
    lease.release()


def test_checking_after_the_release_is_refused(store):
    lease = acquire(store, holder("a"), Clock())
    lease.release()
    with pytest.raises(ConflictError, match="was released"):
        lease.check()


def test_an_unreadable_lock_is_not_taken(store):
    store.put("locks/nightly", b"{}")
    with pytest.raises(IntegrityError, match="expected a lease as JSON"):
        acquire(store, holder("a"), Clock())


def test_a_renewal_whose_answer_is_lost_does_not_lose_the_lease(tmp_path):
    """The store writes it and fails all the same, as a server does that dies before it answers."""

    class Dropping(LocalStore):
        def swap(self, key, expected, new):
            super().swap(key, expected, new)
            if self.drops:
                self.drops -= 1
                raise StoreError("the answer was lost")

    store, clock = Dropping(tmp_path), Clock()
    store.drops = 0
    lease = acquire(store, elsewhere("first"), clock)
    store.drops, clock.now = 1, clock.now + 30
    with pytest.raises(StoreError):
        lease.check()
    clock.now += 30
    lease.check()
    assert LeaseState.from_json("", store.get("locks/nightly")).expires_at == clock.now + 90
    lease.release()


def test_a_lease_that_was_taken_while_the_store_failed_is_lost(tmp_path):
    class Failing(LocalStore):
        fails = False

        def swap(self, key, expected, new):
            if self.fails:
                raise StoreError("out of order")
            super().swap(key, expected, new)

    store, clock = Failing(tmp_path), Clock()
    first = acquire(store, elsewhere("first"), clock)
    store.fails = True
    with pytest.raises(StoreError):
        first.check()
    clock.now += 91
    store.fails = False
    with acquire(store, elsewhere("second"), clock), pytest.raises(ConflictError, match="lock of run first"):
        first.check()
