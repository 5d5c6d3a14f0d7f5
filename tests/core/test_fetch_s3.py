"""s3:// pictures, read from a real S3 server, with boto3's own rules for endpoint and credentials."""

import dataclasses
import http.client
import http.server
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar
from urllib.parse import urlsplit

import pytest

from samestyle.catalogue import fetch as room
from samestyle.catalogue.fetch import FetchPolicy, fetch
from samestyle.errors import ImageError

BODY = b"\xff\xd8\xff" + bytes(range(256)) * 4
ONCE = FetchPolicy(retries=0)
KEYS = ["a.jpg", "a b%20#?.jpg", "ü/ä.jpg"]


@pytest.fixture(scope="module")
def bucket(object_store) -> str:
    name = object_store.new_bucket()
    for key in KEYS:
        object_store.client().put_object(Bucket=name, Key=key, Body=BODY + key.encode())
    object_store.client().put_object(Bucket=name, Key="empty.jpg", Body=b"")
    object_store.client().put_object(Bucket=name, Key="large.jpg", Body=bytes(3 * 2**20))
    return name


@pytest.fixture
def account(object_store, monkeypatch):
    """What boto3 finds in the environment; tests change it."""
    for name, value in object_store.environment.items():
        monkeypatch.setenv(name, value)
    room._s3_client.cache_clear()
    yield monkeypatch
    room._s3_client.cache_clear()


def refusal(uri: str, policy: FetchPolicy = ONCE) -> tuple[str, bool]:
    with pytest.raises(ImageError) as caught:
        fetch(uri, policy)
    assert caught.value.detail.isprintable()
    return caught.value.reason, caught.value.transient


@pytest.mark.parametrize("key", KEYS)
def test_keys_are_literal(account, bucket, key):
    assert fetch(f"s3://{bucket}/{key}", ONCE) == BODY + key.encode()


@pytest.mark.parametrize("scheme", ["s3", "s3a", "S3N"])
def test_schemes(account, bucket, scheme):
    assert fetch(f"{scheme}://{bucket}/a.jpg", ONCE) == BODY + b"a.jpg"


def test_relative_uris(account, bucket):
    assert fetch("a.jpg", dataclasses.replace(ONCE, base=f"s3://{bucket}")) == BODY + b"a.jpg"


@pytest.mark.parametrize(
    ("key", "reason"), [("absent.jpg", "not_found"), ("empty.jpg", "empty_body"), ("large.jpg", "too_many_bytes")]
)
def test_objects_that_are_no_picture(account, bucket, key, reason):
    assert refusal(f"s3://{bucket}/{key}", dataclasses.replace(ONCE, max_bytes=2**20)) == (reason, False)


def test_a_large_object_comes_whole(account, bucket):
    assert len(fetch(f"s3://{bucket}/large.jpg", ONCE)) == 3 * 2**20


def test_a_bucket_that_is_not_there(account):
    assert refusal("s3://no-such-bucket-anywhere/a.jpg") == ("not_found", False)


@pytest.mark.parametrize(("name", "value"), [("AWS_SECRET_ACCESS_KEY", "wrong"), ("AWS_ACCESS_KEY_ID", "wrong")])
def test_wrong_credentials_are_no_fault_of_the_picture(account, bucket, name, value):
    account.setenv(name, value)
    assert refusal(f"s3://{bucket}/a.jpg") == ("http_status", True)


def test_no_credentials_are_no_fault_of_the_picture(account, bucket):
    account.delenv("AWS_ACCESS_KEY_ID")
    account.delenv("AWS_SECRET_ACCESS_KEY")
    assert refusal(f"s3://{bucket}/a.jpg") == ("connection", True)


def test_many_at_once_over_few_connections(account, bucket):
    policy = dataclasses.replace(ONCE, connections_per_host=2)
    with ThreadPoolExecutor(8) as pool:
        bodies = list(pool.map(lambda _: fetch(f"s3://{bucket}/a.jpg", policy), range(40)))
    assert bodies == [BODY + b"a.jpg"] * 40


class Troubled(http.server.BaseHTTPRequestHandler):
    """The real server, as a crowded network shows it: the first answers are refusals, never come, or are cut off."""

    target: ClassVar[str] = ""
    trouble: ClassVar[str] = ""
    times: ClassVar[int] = 0
    seen: ClassVar[list[str]] = []
    done: ClassVar[threading.Event] = threading.Event()

    def log_message(self, *args) -> None:
        pass

    def do_GET(self) -> None:
        self.seen.append(self.path)
        troubled = len(self.seen) <= self.times
        if troubled and self.trouble == "throttled":
            self.answer(503, b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>")
        elif troubled and self.trouble == "silent":
            self.done.wait()
        else:
            self.answer(*self.forwarded(), cut=troubled)

    def forwarded(self) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(urlsplit(self.target).netloc)
        connection.request("GET", self.path, headers=dict(self.headers))  # the signature covers the Host header
        with connection.getresponse() as response:
            answered = response.status, response.read()
        connection.close()
        return answered

    def answer(self, status: int, body: bytes, cut: bool = False) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if cut else body)


@pytest.fixture
def troubled(object_store, account, monkeypatch):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Troubled)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    account.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(Troubled, "target", object_store.endpoint)
    monkeypatch.setattr(room, "_FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(Troubled, "done", threading.Event())
    yield monkeypatch
    Troubled.done.set()
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("trouble", "reason"), [("throttled", "http_status"), ("silent", "timeout"), ("cut", "connection")]
)
def test_trouble_is_tried_again_and_is_transient(troubled, bucket, trouble, reason):
    troubled.setattr(Troubled, "trouble", trouble)
    troubled.setattr(Troubled, "times", 1)
    troubled.setattr(Troubled, "seen", [])
    policy = dataclasses.replace(ONCE, timeout_s=1.0)
    assert refusal(f"s3://{bucket}/a.jpg", policy) == (reason, True)
    Troubled.seen.clear()
    assert fetch(f"s3://{bucket}/a.jpg", dataclasses.replace(policy, retries=3)) == BODY + b"a.jpg"
    assert len(Troubled.seen) >= 2
