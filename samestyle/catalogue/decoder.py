"""Decoding in a child process: a picture that crashes the decoder, eats memory or hangs costs itself and no other.

It is for the second attempt of a Spark task: the first one may have died of such a picture. Pictures and pixels pass
as raw bytes with their length before them, and nothing that the child says is trusted.
"""

import json
import os
import resource
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import astuple, dataclass
from importlib import import_module
from typing import IO

import numpy as np

from samestyle.catalogue.images import DecodeLimits, decode_image
from samestyle.catalogue.titles import normalise_title
from samestyle.errors import ImageError, SamestyleError

# (bytes of a picture) -> (size, size, 3) uint8, or ImageError
Decode = Callable[[bytes], np.ndarray]

CRASH = "crashes_decoder"
DECODER = f"{decode_image.__module__}:{decode_image.__qualname__}"
_REQUEST = struct.Struct(">Q")  # bytes that follow
_REPLY = struct.Struct(">cQ")  # kind, bytes that follow
_READY, _PIXELS, _ERROR = b"R", b"P", b"E"
_MAX_ERROR = 4096
_MIB = 2**20


class _EndedError(Exception):
    """The child has closed its end, or says what no child of ours says."""


@contextmanager
def supervised_decoder(
    limits: DecodeLimits,
    size: int = 224,
    timeout_s: float = 60.0,
    memory_bytes: int | None = None,
    function: str = DECODER,
) -> Iterator[Decode]:
    """Give a function that decodes as `decode_image` does, in a child process.

    limits, size  as of decode_image
    timeout_s     for one picture
    memory_bytes  what decoding one may take; by default what a picture within the limits can need
    function      `module:function` with decode_image's arguments, importable in the child

    The child starts with the first picture, and anew after one that ended it. It may be called from several
    threads; one picture is decoded at a time. Besides decode_image's reasons, ImageError has `crashes_decoder`.
    Raises SamestyleError where the child cannot start at all, which is no picture's fault.
    """
    memory = memory_bytes or 25 * limits.max_pixels + 256 * _MIB
    child = _Child(_Task(function, limits, size, timeout_s, memory))
    try:
        yield child.decode
    finally:
        child.stop()


@dataclass(frozen=True)
class _Task:
    """What the child is told on its command line."""

    function: str
    limits: DecodeLimits
    size: int
    timeout_s: float
    memory_bytes: int

    def words(self) -> list[str]:
        return [*map(str, astuple(self.limits)), self.function, *map(str, astuple(self)[2:])]

    @classmethod
    def of(cls, words: list[str]) -> "_Task":
        *limits, function, size, timeout_s, memory_bytes = words
        return cls(function, DecodeLimits(*map(int, limits)), int(size), float(timeout_s), int(memory_bytes))


class _Child:
    def __init__(self, task: _Task) -> None:
        self._task = task
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def decode(self, data: bytes) -> np.ndarray:
        with self._lock:
            process = self._process = self._process or self._start()
            try:
                kind, body = self._ask(process, data)
            except (OSError, _EndedError) as error:
                raise ImageError(CRASH, self._cause(self._end())) from error
        if kind == _ERROR:
            raise _told(body)
        return np.frombuffer(body, np.uint8).reshape(self._task.size, self._task.size, 3)

    def _ask(self, process: subprocess.Popen[bytes], data: bytes) -> tuple[bytes, bytearray]:
        assert process.stdin
        _write(process.stdin, _REQUEST.pack(len(data)))
        _write(process.stdin, data)
        pixels = 3 * self._task.size**2
        return _answer(process, {_PIXELS: range(pixels, pixels + 1), _ERROR: range(_MAX_ERROR)})

    def stop(self) -> None:
        with self._lock:
            if self._process:
                self._end()

    def _start(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-P", "-m", "samestyle.catalogue.decoder", *self._task.words()]
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=_environment(), bufsize=0
        )
        try:
            _answer(process, {_READY: range(1)})
        except _EndedError as error:
            status = _ended(process)
            raise SamestyleError(
                f"the decoder's process ended with status {status} before its first picture, 0 pictures were tried: "
                f"does `{sys.executable} -m samestyle.catalogue.decoder` find its modules? See the worker's log"
            ) from error
        return process

    def _end(self) -> int:
        process, self._process = self._process, None
        assert process
        return _ended(process)

    def _cause(self, status: int) -> str:
        if status == -signal.SIGALRM:
            return f"no answer within {self._task.timeout_s:g} s"
        return f"the decoder died of {signal.Signals(-status).name}" if status < 0 else f"it ended with status {status}"


def _environment() -> dict[str, str]:
    """Spark adds shipped zips to the path of the running worker only, so that the child has to be told of them."""
    one_thread = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    return {**os.environ, **one_thread, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


def _answer(process: subprocess.Popen[bytes], expected: dict[bytes, range]) -> tuple[bytes, bytearray]:
    """Return kind and body of the next answer, one of the `expected` kinds and lengths."""
    assert process.stdout
    kind, length = _REPLY.unpack(_read(process.stdout, _REPLY.size))
    if length not in expected.get(kind, range(0)):
        raise _EndedError(f"{length} bytes of kind {kind!r}, expected {expected}")
    return kind, _read(process.stdout, length)


def _told(body: bytearray) -> ImageError:
    try:
        reason, detail = json.loads(body)
        return ImageError(str(reason)[:40], str(detail)[:200])
    except ValueError as error:
        return ImageError(CRASH, f"an answer that cannot be read: {error}")


def _ended(process: subprocess.Popen[bytes]) -> int:
    """Close the child's input, at which a whole one ends, and return its exit status."""
    assert process.stdin
    assert process.stdout
    process.stdout.close()
    with suppress(OSError):
        process.stdin.close()
    try:
        return process.wait(timeout=5)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def _write(stream: IO[bytes], data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[stream.write(view) or 0 :]


def _read(stream: IO[bytes], length: int) -> bytearray:
    body = bytearray()
    while len(body) < length:
        part = stream.read(min(length - len(body), _MIB))
        if not part:
            raise _EndedError(f"{len(body)} of {length} bytes")
        body += part
    return body


# --- in the child


def main() -> None:
    """Answer one picture after the other until the input ends."""
    task = _Task.of(sys.argv[1:])
    module, _, name = task.function.partition(":")
    function = getattr(import_module(module), name)
    requests, replies = os.fdopen(0, "rb", buffering=0), os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # what a library prints must not get between the answers
    _confine(task.memory_bytes)
    _reply(replies, _READY, b"")
    with suppress(_EndedError, BrokenPipeError):
        while True:
            length = _REQUEST.unpack(_read(requests, _REQUEST.size))[0]
            signal.setitimer(signal.ITIMER_REAL, task.timeout_s)  # SIGALRM ends the process, in C code as well
            data = bytes(_read(requests, length))
            _reply(replies, *_decoded(function, data, task))
            signal.setitimer(signal.ITIMER_REAL, 0)


def _confine(memory_bytes: int) -> None:
    """Allow `memory_bytes` beyond what the loaded libraries map; leave no core file."""
    with open("/proc/self/statm") as file:
        mapped = int(file.read().split()[0]) * resource.getpagesize()
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    wanted = mapped + memory_bytes
    resource.setrlimit(resource.RLIMIT_AS, (wanted if most == resource.RLIM_INFINITY else min(wanted, most), most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)


def _decoded(function: Callable[..., np.ndarray], data: bytes, task: _Task) -> tuple[bytes, bytes]:
    short = CRASH, f"more than {task.memory_bytes // _MIB} MiB of memory wanted"
    try:
        return _PIXELS, np.ascontiguousarray(function(data, task.limits, task.size)).tobytes()
    except MemoryError:
        reason, detail = short
    except ImageError as error:
        # Elsewhere a lack of memory may pass; here the picture had all that it may ever get.
        reason, detail = short if error.transient else (error.reason, error.detail)
    return _ERROR, json.dumps([reason, normalise_title(detail, 200) or ""]).encode()


def _reply(replies: IO[bytes], kind: bytes, body: bytes) -> None:
    _write(replies, _REPLY.pack(kind, len(body)) + body)


if __name__ == "__main__":
    main()
