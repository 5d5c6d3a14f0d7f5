"""Threads that more can join while they work: a ThreadPoolExecutor takes on others only when something is submitted."""

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
Job = Callable[[], Any]


class Crew:
    """Threads that take jobs from one queue and put what came of them into another. Gone when the block is left."""

    def __init__(self, name: str, threads: int) -> None:
        self.name, self.threads = name, list[threading.Thread]()
        self._jobs, self._done = SimpleQueue[Job | None](), SimpleQueue[tuple[Any, BaseException | None]]()
        self._lock, self._closed = threading.Lock(), False
        self.hire(threads)

    def hire(self, threads: int) -> None:
        """Have so many, if there are fewer; any thread may call it."""
        with self._lock:
            while len(self.threads) < threads and not self._closed:
                thread = threading.Thread(target=self._serve, name=f"{self.name}_{len(self.threads)}", daemon=True)
                thread.start()
                self.threads.append(thread)

    @property
    def closed(self) -> bool:
        """Whether nobody asks for results any more: long jobs should look."""
        return self._closed

    def submit(self, job: Job) -> None:
        self._jobs.put(job)

    def result(self) -> Any:
        """What the next job that is ready has returned; raises what it raised."""
        value, error = self._done.get()
        if error is not None:
            raise error
        return value

    def __enter__(self) -> "Crew":
        return self

    def __exit__(self, *error: object) -> None:
        """Waits for what has begun, drops the rest."""
        with self._lock:
            self._closed = True
        with suppress(Empty):
            while True:
                self._jobs.get_nowait()
        self._jobs.put(None)
        for thread in self.threads:
            thread.join()

    def _serve(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                self._done.put((job(), None))
            except BaseException as error:
                self._done.put((None, error))
        self._jobs.put(None)  # for the next one


def one(item: Any) -> int:
    return 1


def finished(
    work: Callable[[Item], Result],
    items: Iterable[Item],
    crew: Crew,
    under_way: int,
    size: Callable[[Any], int] = one,
) -> Iterator[Result]:
    """What `work` makes of the items, in the order in which it is ready; at most so many `under_way`.

    size: what an item counts, and what came of it as well. Raises what `work` and `items` raise.
    """
    waiting = 0
    for item in items:
        crew.submit(partial(work, item))
        waiting += size(item)
        while waiting >= under_way:
            result = crew.result()
            waiting -= size(result)
            yield result
    while waiting:
        result = crew.result()
        waiting -= size(result)
        yield result
