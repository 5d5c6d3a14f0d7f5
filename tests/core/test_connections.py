"""Connections that serve several pictures: which are kept, how many there are, and whom they may reach."""

import dataclasses
import http.client
import http.server
import os
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import ClassVar

import pytest

from samestyle.catalogue import connections as room
from samestyle.catalogue import fetch as fetch_room
from samestyle.catalogue.connections import Connections
from samestyle.catalogue.fetch import FetchPolicy, fetch
from samestyle.errors import ImageError

BODY = b"\xff\xd8\xff" + bytes(range(256)) * 4
LOCAL = FetchPolicy(allow_private_networks=True, retries=0)
PUBLIC = FetchPolicy(retries=0)
PUBLIC_ADDRESS = "93.184.216.34"


class Patient(http.server.BaseHTTPRequestHandler):
    """Keeps its connections open, but for what its path says. `gate` is passed together by so many requests."""

    protocol_version = "HTTP/1.1"
    gate: ClassVar[threading.Barrier] = threading.Barrier(1)
    hold: ClassVar[threading.Event] = threading.Event()
    active: ClassVar[list[str]] = []
    most: ClassVar[int] = 0
    answered = 0  # on this connection

    def log_message(self, *args) -> None:
        pass

    def handle(self) -> None:
        with suppress(OSError):  # the client hangs up
            super().handle()

    def do_GET(self) -> None:
        getattr(self, self.path.partition("?")[0].strip("/"))()
        self.answered += 1

    def answer(self, status: int, body: bytes = b"", more: bytes = b"", **headers: object) -> None:
        lines = [f"HTTP/1.1 {status} x", f"Content-Length: {len(body)}", *(f"{k}: {v}" for k, v in headers.items())]
        self.wfile.write("\r\n".join([*lines, "", ""]).encode() + body + more)

    def picture(self) -> None:
        self.answer(200, BODY)

    def missing(self) -> None:
        self.answer(404, b"no such page")

    def long_missing(self) -> None:
        self.answer(404, b"x" * 10**6)

    def redirect(self) -> None:
        self.answer(302, b"moved", Location="/picture")

    def chunked(self) -> None:
        self.wfile.write(b"HTTP/1.1 200 x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n")

    def last(self) -> None:
        """Ends the connection behind its answer, without a word."""
        self.answer(200, BODY)
        self.close_connection = True

    def once(self) -> None:
        """Ends a connection that has served before, without an answer."""
        if self.answered:
            self.close_connection = True
        else:
            self.answer(200, BODY)

    def twofold(self) -> None:
        """An answer, and one to a question that nobody asked."""
        self.answer(200, BODY, more=b"HTTP/1.1 200 x\r\nContent-Length: 4\r\n\r\nevil")

    def long(self) -> None:
        self.answer(200, b"x" * 1000)

    def together(self) -> None:
        type(self).most = max(self.most, len(self.active) + 1)
        self.active.append(self.path)
        self.gate.wait(20)
        self.active.remove(self.path)
        self.answer(200, BODY)

    def held(self) -> None:
        self.hold.wait(20)
        self.answer(200, BODY)


@pytest.fixture(scope="module")
def port():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Patient)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server.server_port
    server.shutdown()
    server.server_close()


class Opener:
    """Connects to the local server instead of `allowed`, and to no other address. Counts."""

    def __init__(self, port: int, allowed: str = "127.0.0.1") -> None:
        self.port, self.allowed, self.opened = port, allowed, 0

    def __call__(self, address: str, port: int, timeout_s: float) -> socket.socket:
        assert address == self.allowed, f"a connection to {address} was tried"
        self.opened += 1
        link = socket.socket()
        link.connect(("127.0.0.1", self.port))
        return link


@pytest.fixture
def opener(port):
    return Opener(port)


def refusal(uri: str, policy: FetchPolicy, opener: Opener) -> ImageError:
    with pytest.raises(ImageError) as caught:
        fetch(uri, policy, opener=opener)
    return caught.value


def test_one_connection_serves_picture_after_picture(port, opener):
    for number in range(10):
        assert fetch(f"http://127.0.0.1:{port}/picture?{number}", LOCAL, opener=opener) == BODY
    assert opener.opened == 1


def test_redirects_chunks_and_short_error_pages_keep_the_connection(port, opener):
    site = f"http://127.0.0.1:{port}"
    assert fetch(f"{site}/redirect", LOCAL, opener=opener) == BODY
    assert fetch(f"{site}/chunked", LOCAL, opener=opener) == b"abc"
    assert refusal(f"{site}/missing", LOCAL, opener).reason == "not_found"
    assert fetch(f"{site}/picture", LOCAL, opener=opener) == BODY
    assert opener.opened == 1


@pytest.mark.parametrize("path", ["long_missing", "long"])
def test_what_is_not_read_to_its_end_is_closed(port, opener, path):
    short = dataclasses.replace(LOCAL, max_bytes=999)
    assert refusal(f"http://127.0.0.1:{port}/{path}", short, opener).reason in ("not_found", "too_many_bytes")
    fetch(f"http://127.0.0.1:{port}/picture", LOCAL, opener=opener)
    assert opener.opened == 2


@pytest.mark.parametrize("path", ["last", "once"])
def test_a_kept_connection_that_its_server_ends_is_replaced(port, opener, path):
    for _ in range(3):
        assert fetch(f"http://127.0.0.1:{port}/{path}", LOCAL, opener=opener) == BODY
    assert opener.opened == 3


def test_an_answer_that_nobody_asked_for_reaches_nobody(port, opener):
    for _ in range(5):
        assert fetch(f"http://127.0.0.1:{port}/twofold", LOCAL, opener=opener) == BODY


def test_old_connections_are_not_used(port, opener, monkeypatch):
    fetch(f"http://127.0.0.1:{port}/picture", LOCAL, opener=opener)
    monkeypatch.setattr(room, "_IDLE_S", 0.0)
    fetch(f"http://127.0.0.1:{port}/picture", LOCAL, opener=opener)
    assert opener.opened == 2


# --- whom a kept connection may reach


def test_a_connection_to_a_private_address_serves_only_those_who_may(port, opener):
    fetch(f"http://127.0.0.1:{port}/picture", LOCAL, opener=opener)
    assert refusal(f"http://127.0.0.1:{port}/picture", PUBLIC, opener).reason == "private_address"
    assert opener.opened == 1


def test_a_name_that_moves_inside_is_refused_once_its_connection_ends(port, monkeypatch):
    """While it lasts, the connection leads to the address that was checked."""
    opener, addresses = Opener(port, PUBLIC_ADDRESS), [PUBLIC_ADDRESS]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [(2, 1, 6, "", (addresses[0], 80))])
    assert fetch("http://shop.example/picture", PUBLIC, opener=opener) == BODY
    addresses[0] = "10.0.0.1"
    assert fetch("http://shop.example/last", PUBLIC, opener=opener) == BODY
    error = refusal("http://shop.example/picture", PUBLIC, opener)
    assert (error.reason, opener.opened) == ("private_address", 1)


def test_another_name_of_the_same_address_gets_a_connection_of_its_own(port, monkeypatch):
    opener = Opener(port, PUBLIC_ADDRESS)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [(2, 1, 6, "", (PUBLIC_ADDRESS, 80))])
    for host in ("one.example", "two.example", "one.example:80"):
        fetch(f"http://{host}/picture", PUBLIC, opener=opener)
    assert opener.opened == 2


# --- how many there are


@pytest.mark.parametrize("most", [1, 4])
def test_as_many_connections_to_a_host_as_allowed_and_no_more(port, opener, monkeypatch, most):
    """The server answers only when `most` requests are with it: fewer would wait for ever."""
    monkeypatch.setattr(Patient, "gate", threading.Barrier(most))
    monkeypatch.setattr(Patient, "most", 0)
    policy = dataclasses.replace(LOCAL, connections_per_host=most)
    with ThreadPoolExecutor(8) as pool:
        uris = [f"http://127.0.0.1:{port}/together?{number}" for number in range(16)]
        bodies = list(pool.map(lambda uri: fetch(uri, policy, opener=opener), uris))
    assert bodies == [BODY] * 16
    assert Patient.most == opener.opened == most


def test_waiting_for_a_connection_ends_with_the_deadline(port, opener, monkeypatch):
    monkeypatch.setattr(Patient, "hold", threading.Event())
    policy = dataclasses.replace(LOCAL, connections_per_host=1)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(fetch, f"http://127.0.0.1:{port}/held", policy, opener)
        while not opener.opened:
            time.sleep(0.001)
        error = refusal(f"http://127.0.0.1:{port}/picture", dataclasses.replace(policy, deadline_s=0.1), opener)
        Patient.hold.set()
        assert first.result() == BODY
    assert (error.reason, error.transient) == ("timeout", True)
    assert f"1 of 1 connections to 127.0.0.1:{port} stayed in use" in error.detail


def link() -> tuple[http.client.HTTPConnection, socket.socket]:
    """A connection, and the other end of it."""
    connection = http.client.HTTPConnection("shop.example")
    connection.sock, other = socket.socketpair()
    return connection, other


def test_idle_connections_of_all_hosts_are_bounded_and_the_newest_stay():
    kept, links = Connections(), [link() for _ in range(100)]
    for number, (connection, _) in enumerate(links):
        kept.give(number, connection)
    found = [kept.take(number) for number in range(100)]
    assert found == [None] * 36 + [connection for connection, _ in links[36:]]
    assert all(connection.sock is None for connection, _ in links[:36])
    for connection, other in links:
        connection.close()
        other.close()


def test_a_forked_process_starts_without_connections():
    kept, (connection, other) = Connections(), link()
    kept.give("key", connection)
    child = os.fork()
    if not child:
        os._exit(0 if kept.take("key") is None else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert kept.take("key") is connection
    connection.close()
    other.close()


def test_nothing_is_remembered_of_hosts_that_are_done(port, opener):
    fetch(f"http://127.0.0.1:{port}/picture", LOCAL, opener=opener)
    assert not fetch_room._connections._used
