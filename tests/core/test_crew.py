"""Threads that more can join: nothing is lost, errors come through, and all are gone at the end."""

import threading
import time
from collections.abc import Iterator

import pytest

from samestyle.encoder.crew import Crew, finished
from samestyle.encoder.pipeline import QUICK_S, Need


def alive(name: str) -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith(name)]


def test_every_item_is_worked_on_once() -> None:
    with Crew("square", 3) as crew:
        assert sorted(finished(lambda n: n * n, range(100), crew, 7)) == [n * n for n in range(100)]
    assert not alive("square")


def test_results_come_as_they_are_ready() -> None:
    held = threading.Event()

    def work(item: int) -> int:
        if item == 0:
            held.wait(60)
        return item

    with Crew("held", 2) as crew:
        results = finished(work, range(20), crew, 20)
        early = [next(results) for _ in range(19)]
        held.set()
        assert sorted(early) == list(range(1, 20))
        assert list(results) == [0]


def test_no_more_items_are_taken_than_may_be_under_way() -> None:
    taken = [0]

    def items() -> Iterator[int]:
        for taken[0] in range(1, 101):
            yield taken[0]

    with Crew("few", 2) as crew:
        for done, _ in enumerate(finished(abs, items(), crew, 5)):
            assert taken[0] <= done + 5


def test_parts_count_by_their_size() -> None:
    taken = [0]

    def parts() -> Iterator[list[int]]:
        for size in (3, 1, 4, 1, 5, 9, 2, 6):
            taken[0] += size
            yield [0] * size

    done = 0
    with Crew("parts", 2) as crew:
        for part in finished(list, parts(), crew, 6, len):
            assert taken[0] - done < 6 + 9
            done += len(part)
    assert done == taken[0] == 31


def test_threads_hired_while_all_others_wait_take_what_is_queued() -> None:
    """Ten jobs that wait for each other end only once there are ten threads."""
    together = threading.Barrier(10)
    with Crew("barrier", 1) as crew:
        for _ in range(10):
            crew.submit(lambda: together.wait(60))
        crew.hire(10)
        assert sorted(crew.result() for _ in range(10)) == list(range(10))
        crew.hire(4)
        assert len(alive("barrier")) == 10
    assert not alive("barrier")


def test_an_error_is_raised_by_who_asks_and_costs_no_thread() -> None:
    with Crew("wrong", 1) as crew:
        crew.submit(lambda: 1 / 0)
        crew.submit(lambda: "well")
        with pytest.raises(ZeroDivisionError):
            crew.result()
        assert crew.result() == "well"


def test_leaving_waits_for_what_has_begun_and_drops_the_rest() -> None:
    begun, ended = threading.Event(), list[int]()

    def work(number: int) -> None:
        begun.set()
        time.sleep(0.05)
        ended.append(number)

    with Crew("left", 1) as crew:
        for number in range(5):
            crew.submit(lambda number=number: work(number))
        begun.wait(60)
    assert ended == [0]
    assert not alive("left")


def test_nobody_is_hired_once_it_is_left() -> None:
    with Crew("gone", 1) as crew:
        pass
    crew.hire(5)
    assert not alive("gone")


@pytest.mark.parametrize(
    ("seconds", "threads"), [(0.0, 2), (QUICK_S / 3, 2), (1.1 * QUICK_S, 4), (4.2 * QUICK_S, 10), (1, 16)]
)
def test_slow_fetches_want_more_threads(seconds: float, threads: int) -> None:
    need = Need(2, 16, lambda threads: None)
    for _ in range(200):
        need.took(seconds)
    assert need.threads == threads


def test_one_slow_fetch_among_quick_ones_changes_little() -> None:
    need = Need(2, 16, lambda threads: None)
    need.took(5 * QUICK_S)
    assert need.threads == 2
    need.took(10.0)
    assert need.threads <= 4


def test_a_server_is_asked_by_all_threads_from_the_first_photo_on() -> None:
    hired = list[int]()
    need = Need(1, 16, hired.append)
    need.begins(remote=False)
    need.begins(remote=True)
    assert hired == [16]
