"""A proxy in front of a real server that answers wrongly, breaks off, or waits, when a test says so."""

import http.client
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

# What may be said about a request: (method, path) -> the name of a fault, or None for an honest answer.
Plan = Callable[[str, str], str | None]
ERRORS = {
    "500": (500, "InternalError"),
    "503": (503, "SlowDown"),
    "412": (412, "PreconditionFailed"),
    "409": (409, "ConditionalRequestConflict"),
}
FAULTS = (*ERRORS, "reset", "truncate", "flip", "lost", "pause")


@dataclass
class FaultProxy:
    """`plan` decides; `seen` are the requests, `done` the faults that were dealt."""

    endpoint: str
    target: str
    pause_s: float = 0.2
    plan: Plan = lambda method, path: None
    seen: list[tuple[str, str]] = field(default_factory=list)
    done: list[tuple[str, str, str]] = field(default_factory=list)

    def fail(self, fault: str, times: int, method: str = "", part: str = "") -> None:
        """This fault for the next `times` requests of a method whose path has `part`; honest afterwards."""
        left = [times]

        def plan(found: str, path: str) -> str | None:
            if left[0] and method in ("", found) and part in path:
                left[0] -= 1
                return fault
            return None

        self.plan = plan


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    proxy: FaultProxy

    def handle_any(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        fault = self.proxy.plan(self.command, self.path)
        self.proxy.seen.append((self.command, self.path))
        if fault:
            self.proxy.done.append((fault, self.command, self.path))
        if fault in ERRORS:
            self.answer_error(*ERRORS[fault])
        elif fault == "reset":
            self.break_off()
        else:
            if fault == "pause":
                time.sleep(self.proxy.pause_s)
            self.forward(body, fault)

    def forward(self, body: bytes, fault: str | None) -> None:
        target = http.client.HTTPConnection(urlsplit(self.proxy.target).netloc, timeout=60)
        target.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            # The server answers "100 Continue" to us, who have sent all of it.
            if name.lower() not in ("expect", "connection"):
                target.putheader(name, value)
        target.endheaders(body)
        answer = target.getresponse()
        data = answer.read()
        target.close()
        if fault == "lost":  # done, and nobody is told
            self.break_off()
            return
        if fault == "flip" and data:
            data = data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 1]) + data[len(data) // 2 + 1 :]
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("connection", "transfer-encoding", "content-length", "date", "server"):
                self.send_header(name, value)
        length = answer.getheader("Content-Length") if self.command == "HEAD" else str(len(data))
        self.send_header("Content-Length", length or "0")
        self.end_headers()
        if self.command == "HEAD":
            return
        self.wfile.write(data[: len(data) // 2] if fault == "truncate" else data)
        if fault == "truncate":
            self.break_off()

    def answer_error(self, status: int, code: str) -> None:
        text = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>of the proxy</Message></Error>".encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(text)

    def break_off(self) -> None:
        self.close_connection = True
        self.wfile.flush()
        self.connection.close()

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = handle_any

    def log_message(self, format: str, *arguments: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        pass  # connections that were broken off on purpose


@contextmanager
def faulty(target: str) -> Iterator[FaultProxy]:
    """A proxy on loopback in front of `target`, an http:// address."""
    server = Server(("127.0.0.1", 0), Handler)
    proxy = FaultProxy(f"http://127.0.0.1:{server.server_address[1]}", target)
    server.RequestHandlerClass = type("Bound", (Handler,), {"proxy": proxy})
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
