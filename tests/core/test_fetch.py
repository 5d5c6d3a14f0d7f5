import dataclasses
import gc
import http.server
import os
import pickle
import socket
import ssl
import struct
import subprocess
import threading
import time
from collections import Counter
from typing import ClassVar

import boto3
import pytest

from samestyle.catalogue import fetch as room
from samestyle.catalogue.fetch import FetchPolicy, fetch, is_remote
from samestyle.errors import ImageError

BODY = b"\xff\xd8\xff" + bytes(range(256)) * 4
LOCAL = FetchPolicy(allow_private_networks=True, retries=0)
PUBLIC = FetchPolicy(retries=0)


class Faults(http.server.BaseHTTPRequestHandler):
    """Answers as its path says. `seen` counts requests; `hosts` keeps the Host headers."""

    protocol_version = "HTTP/1.1"
    seen: ClassVar[Counter[str]] = Counter()
    hosts: ClassVar[set[str]] = set()

    def log_message(self, *args) -> None:
        pass

    def do_GET(self) -> None:
        name = self.path.partition("?")[0].strip("/")
        self.seen[self.path] += 1
        self.hosts.add(self.headers["Host"])
        self.close_connection = True
        kind, _, value = name.partition("/")
        with_value = {"status": self.status, "redirect": self.redirect, "flaky": self.flaky}
        if kind in with_value:
            with_value[kind](value)
        else:
            getattr(self, kind, self.picture)()

    def answer(self, status: int, body: bytes = b"", **headers: object) -> None:
        self.send_response(status)
        for name, value in {"Connection": "close", "Content_Length": len(body), **headers}.items():
            if value is not None:
                self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        self.wfile.write(body)

    def picture(self) -> None:
        self.answer(200, BODY)

    def status(self, value: str) -> None:
        self.answer(int(value), b"an error page")

    def flaky(self, failures: str) -> None:
        if self.seen[self.path] > int(failures):
            self.picture()
        else:
            self.answer(503)

    def redirect(self, target: str) -> None:
        self.answer(302, Location=target or "/redirect/")

    def chunked(self) -> None:
        self.answer(200, b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n", Content_Length=None, Transfer_Encoding="chunked")

    def cut_chunked(self) -> None:
        self.answer(200, b"ff\r\nabc", Content_Length=None, Transfer_Encoding="chunked")

    def no_length(self) -> None:
        self.answer(200, BODY, Content_Length=None)

    def empty(self) -> None:
        self.answer(200)

    def truncated(self) -> None:
        self.answer(200, BODY, Content_Length=len(BODY) + 1)

    def announced(self) -> None:
        self.answer(200, b"", Content_Length=10**12)

    def reset(self) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def nonsense(self) -> None:
        self.wfile.write(b"220 mail.example ESMTP\r\n")

    def silence(self) -> None:
        self.connection.recv(1)  # until the other side has gone

    def endless(self) -> None:
        self.answer(200, Content_Length=None)
        self.pour(b"x" * 65536, 0)

    def drip(self) -> None:
        self.answer(200, Content_Length=10**6)
        self.pour(b"x", 0.02)

    def drip_without_length(self) -> None:
        self.answer(200, Content_Length=None)
        self.pour(b"x", 0.02)

    def drip_headers(self) -> None:
        self.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
        self.pour(b"x", 0.02)

    def pour(self, drop: bytes, pause_s: float) -> None:
        try:
            while True:
                self.wfile.write(drop)
                time.sleep(pause_s)
        except OSError:
            pass


def serving(handler, context: ssl.SSLContext | None = None):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    if context:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    return server


@pytest.fixture(scope="module")
def site():
    server = serving(Faults)
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(room, "_FIRST_PAUSE_S", 0.01)
    Faults.seen.clear()
    Faults.hosts.clear()


def never(address: str, port: int, timeout_s: float) -> socket.socket:
    pytest.fail(f"a connection to {address}:{port} was tried")


def refusal(uri: str, policy: FetchPolicy, **options) -> ImageError:
    with pytest.raises(ImageError) as caught:
        fetch(uri, policy, **options)
    assert len(caught.value.detail) <= 200
    assert caught.value.detail.isprintable()
    return caught.value


def resolving(monkeypatch, *addresses: str) -> list[str]:
    """Every host name has these addresses; returns the list of names asked for."""
    asked: list[str] = []

    def answer(host, port, *args, **options):
        asked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses]

    monkeypatch.setattr(socket, "getaddrinfo", answer)
    return asked


# --- http


@pytest.mark.parametrize("path", ["a.jpg", "no_length", "flaky/0", "a%20b/ü.jpg?w=1&n=ä b", "redirect//a.jpg"])
def test_bytes_come_whole(site, path):
    assert fetch(f"{site}/{path}", LOCAL) == BODY


def test_chunked_body(site):
    assert fetch(f"{site}/chunked", LOCAL) == b"abcde"


@pytest.mark.parametrize("location", ["http://[bad/", "http://host:port/", "http://user@host/"])
def test_redirects_that_lead_nowhere(site, location):
    assert refusal(f"{site}/redirect/{location}", LOCAL).reason == "bad_uri"


def test_characters_arrive_percent_encoded(site):
    fetch(f"{site}/ü b%20c.jpg?q=ä", LOCAL)
    assert list(Faults.seen) == ["/%C3%BC%20b%20c.jpg?q=%C3%A4"]


@pytest.mark.parametrize(
    ("path", "reason", "transient"),
    [
        ("status/404", "not_found", False),
        ("status/410", "not_found", False),
        ("status/403", "http_status", False),
        ("status/204", "http_status", False),
        ("status/304", "http_status", False),
        ("status/429", "http_status", True),
        ("status/500", "http_status", True),
        ("status/503", "http_status", True),
        ("empty", "empty_body", False),
        ("truncated", "connection", True),
        ("cut_chunked", "connection", True),
        ("reset", "connection", True),
        ("nonsense", "connection", True),
        ("announced", "too_many_bytes", False),
        ("endless", "too_many_bytes", False),
        ("redirect/", "too_many_redirects", False),
        ("redirect/http://169.254.169.254/latest/meta-data/", "private_address", False),
        ("redirect/http://[fe80::1]/", "private_address", False),
        ("redirect/file:///etc/passwd", "forbidden_scheme", False),
        ("redirect/s3://bucket/key", "forbidden_scheme", False),
        ("redirect/ftp://127.0.0.1/", "forbidden_scheme", False),
    ],
)
def test_faults_of_a_server(site, path, reason, transient):
    error = refusal(f"{site}/{path}", LOCAL)
    assert (error.reason, error.transient) == (reason, transient), error


def test_redirects_are_counted(site):
    refusal(f"{site}/redirect/", dataclasses.replace(LOCAL, max_redirects=5))
    assert Faults.seen["/redirect/"] == 6


@pytest.mark.parametrize("path", ["drip", "drip_without_length", "drip_headers", "silence"])
def test_deadline_ends_what_never_meets_a_time_out(site, path):
    policy = dataclasses.replace(LOCAL, timeout_s=60, deadline_s=0.3)
    error = refusal(f"{site}/{path}", policy)
    assert (error.reason, error.transient) == ("timeout", True), error


def test_time_out_of_a_silent_server(site):
    error = refusal(f"{site}/silence", dataclasses.replace(LOCAL, timeout_s=0.1))
    assert (error.reason, error.transient) == ("timeout", True)


def test_nobody_listens():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    error = refusal(f"http://127.0.0.1:{port}/", LOCAL)
    assert (error.reason, error.transient) == ("connection", True)


def test_unknown_host_is_transient(monkeypatch):
    def fail(*args, **options):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    error = refusal("http://nowhere.example/", PUBLIC, opener=never)
    assert (error.reason, error.transient) == ("connection", True)


@pytest.mark.parametrize(("path", "tries"), [("status/503", 3), ("status/404", 1), ("status/403", 1)])
def test_only_transient_errors_are_tried_again(site, path, tries):
    refusal(f"{site}/{path}", dataclasses.replace(LOCAL, retries=2))
    assert Faults.seen[f"/{path}"] == tries


def test_a_retry_can_succeed(site):
    assert fetch(f"{site}/flaky/2", dataclasses.replace(LOCAL, retries=2)) == BODY


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("path", ["status/404", "reset", "endless", "truncated", "cut_chunked", "redirect/"])
def test_connections_are_closed(site, path):
    """A socket that is left to the garbage collector complains, which is an error here."""
    for _ in range(3):
        refusal(f"{site}/{path}", LOCAL)
    gc.collect()


def test_length_limit_is_inclusive(site):
    assert fetch(f"{site}/no_length", dataclasses.replace(LOCAL, max_bytes=len(BODY))) == BODY
    for path in ("a.jpg", "no_length"):
        error = refusal(f"{site}/{path}", dataclasses.replace(LOCAL, max_bytes=len(BODY) - 1))
        assert error.reason == "too_many_bytes"


def test_proxy_settings_are_ignored(site, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert fetch(f"{site}/a.jpg", LOCAL) == BODY


# --- who may be contacted


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "localhost",
        "127.1",
        "2130706433",
        "0x7f000001",
        "0",
        "0.0.0.0",
        "10.0.0.1",
        "172.16.3.4",
        "192.168.1.1",
        "100.64.0.1",
        "169.254.169.254",
        "100.100.100.200",
        "168.63.129.16",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
        "192.0.2.1",
        "[::1]",
        "[::]",
        "[fe80::1]",
        "[fc00::1]",
        "[fd00:ec2::254]",
        "[ff02::1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:a9fe:a9fe]",
        "[::127.0.0.1]",
        "[2002:7f00:1::]",
        "[64:ff9b::a9fe:a9fe]",
        "[2001:db8::1]",
    ],
)
def test_addresses_inside_are_never_contacted(host):
    for scheme in ("http", "https"):
        error = refusal(f"{scheme}://{host}/a.jpg", PUBLIC, opener=never)
        assert (error.reason, error.transient) == ("private_address", False)


@pytest.mark.parametrize(
    "host",
    [
        "169.254.169.254",
        "100.100.100.200",
        "168.63.129.16",
        "0.0.0.0",
        "224.0.0.1",
        "[fe80::1]",
        "[fd00:ec2::254]",
        "[::ffff:169.254.169.254]",
        "[64:ff9b::a9fe:a9fe]",
    ],
)
def test_metadata_and_link_local_are_not_even_with_private_networks(host):
    assert refusal(f"http://{host}/", LOCAL, opener=never).reason == "private_address"


@pytest.mark.parametrize("inside", ["127.0.0.1", "10.1.2.3", "169.254.169.254", "::1"])
def test_one_inner_address_among_public_ones_refuses_the_name(monkeypatch, inside):
    resolving(monkeypatch, "93.184.216.34", inside)
    assert refusal("http://shop.example/", PUBLIC, opener=never).reason == "private_address"


@pytest.mark.parametrize(
    ("address", "host"), [("93.184.216.34", "shop.example"), ("2606:4700::1111", "[2606:4700::1111]")]
)
def test_connection_goes_to_the_checked_address_and_the_name_is_asked_once(site, monkeypatch, address, host):
    asked = resolving(monkeypatch, address)
    tried = []

    def to_the_site(address, port, timeout_s):
        tried.append((address, port))
        link = socket.socket()
        link.connect(("127.0.0.1", int(site.rpartition(":")[2])))
        return link

    assert fetch(f"http://{host}/a.jpg", PUBLIC, opener=to_the_site) == BODY
    assert fetch(f"http://{host}:8080/a.jpg", PUBLIC, opener=to_the_site) == BODY
    assert tried == [(address, 80), (address, 8080)]
    assert asked == [host.strip("[]")] * 2
    assert Faults.hosts == {host, f"{host}:8080"}


def test_each_address_is_tried(site, monkeypatch):
    resolving(monkeypatch, "93.184.216.34", "93.184.216.35")
    tried = []

    def second_only(address, port, timeout_s):
        tried.append(address)
        if len(tried) == 1:
            raise ConnectionRefusedError
        return socket.create_connection(("127.0.0.1", int(site.rpartition(":")[2])))

    monkeypatch.setattr(socket, "create_connection", direct_connection)
    assert fetch("http://shop.example/a.jpg", PUBLIC, opener=second_only) == BODY
    assert tried == ["93.184.216.34", "93.184.216.35"]


def direct_connection(target, *args):
    """socket.create_connection without the name service, which these tests have replaced."""
    link = socket.socket()
    link.connect(target)
    return link


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tls")
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2"
    names = ["-subj", "/CN=shop.example", "-addext", "subjectAltName=DNS:shop.example"]
    try:
        subprocess.run(
            [*command.split(), *names, "-keyout", "key.pem", "-out", "cert.pem"],
            cwd=folder,
            check=True,
            capture_output=True,
        )
    except FileNotFoundError:
        pytest.skip("needs openssl to make a certificate")
    return folder


@pytest.fixture
def secure_port(certificate, monkeypatch):
    """An https server for shop.example, and clients that trust its certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
    server = serving(Faults, context)
    trusting = ssl.create_default_context(cafile=str(certificate / "cert.pem"))
    monkeypatch.setattr(room, "_tls_context", lambda: trusting)
    resolving(monkeypatch, "93.184.216.34")
    yield server.server_port
    server.shutdown()
    server.server_close()


def test_tls_checks_the_name_and_not_the_address(secure_port):
    def to_the_server(address, port, timeout_s):
        assert (address, port) == ("93.184.216.34", 443)
        return direct_connection(("127.0.0.1", secure_port))

    assert fetch("https://shop.example/a.jpg", PUBLIC, opener=to_the_server) == BODY
    assert Faults.hosts == {"shop.example"}
    error = refusal("https://other.example/a.jpg", PUBLIC, opener=to_the_server)
    assert (error.reason, "CERTIFICATE_VERIFY_FAILED" in error.detail) == ("connection", True)


def test_deadline_over_tls(secure_port):
    policy = dataclasses.replace(PUBLIC, deadline_s=0.5)
    for path in ("drip", "drip_without_length", "drip_headers"):
        error = refusal(
            f"https://shop.example/{path}",
            policy,
            opener=lambda address, port, timeout_s: direct_connection(("127.0.0.1", secure_port)),
        )
        assert error.reason == "timeout", error


# --- URIs


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        ("", "bad_uri"),
        ("  ", "bad_uri"),
        ("http://", "bad_uri"),
        ("http:///a.jpg", "bad_uri"),
        ("http:a.jpg", "bad_uri"),
        ("http://host:port/", "bad_uri"),
        ("http://host:99999/", "bad_uri"),
        ("http://[::1/", "bad_uri"),
        ("http://user:secret@93.184.216.34/", "bad_uri"),
        ("http://.example/", "bad_uri"),
        ("http://" + "a" * 64 + ".example/", "bad_uri"),
        ("http://a b/", "bad_uri"),
        ("http://%5Bbad/", "bad_uri"),
        ("http://[fe80::1%25eth0]/", "bad_uri"),
        ("http://93.184.216.34/\r\nHost: x", "bad_uri"),
        ("http://93.184.216.34/\0", "bad_uri"),
        ("http://93.184.216.34/\ud800", "bad_uri"),
        ("http://93.184.216.34/" + "x" * 9000, "bad_uri"),
        ("a.jpg", "bad_uri"),
        ("//93.184.216.34/a.jpg", "bad_uri"),
        ("file://other/a.jpg", "bad_uri"),
        ("file:a.jpg", "bad_uri"),
        ("file:///a%00.jpg", "bad_uri"),
        ("s3://bucket", "bad_uri"),
        ("s3:///key", "bad_uri"),
        ("ftp://93.184.216.34/", "forbidden_scheme"),
        ("data:image/png;base64,AAAA", "forbidden_scheme"),
        ("javascript:1", "forbidden_scheme"),
        ("gopher://93.184.216.34/", "forbidden_scheme"),
        ("C:\\a.jpg", "forbidden_scheme"),
    ],
)
def test_uris_that_are_refused(uri, reason):
    error = refusal(uri, PUBLIC, opener=never)
    assert (error.reason, error.transient) == (reason, False), error


def test_schemes_of_the_policy(site, tmp_path):
    for uri in (f"{site}/a.jpg", f"file://{tmp_path}/a.jpg", "s3://bucket/key", "s3a://bucket/key", "/a.jpg"):
        assert refusal(uri, dataclasses.replace(LOCAL, schemes=("https",))).reason == "forbidden_scheme"


@pytest.mark.parametrize(
    ("uri", "asked"),
    [
        ("a.jpg", "/shop/a.jpg"),
        ("../a.jpg", "/a.jpg"),
        ("/a.jpg?w=1", "/a.jpg?w=1"),
        ("b/a b.jpg", "/shop/b/a%20b.jpg"),
    ],
)
def test_base_of_a_site(site, uri, asked):
    assert fetch(uri, dataclasses.replace(LOCAL, base=f"{site}/shop")) == BODY
    assert list(Faults.seen) == [asked]


def test_policy_and_error_travel():
    policy = FetchPolicy(file_roots=("/data",), base="/data")
    assert pickle.loads(pickle.dumps(policy)) == policy
    error = pickle.loads(pickle.dumps(ImageError("timeout", "10 s", transient=True)))
    assert (error.reason, error.detail, error.transient) == ("timeout", "10 s", True)


# --- files


@pytest.fixture
def shop(tmp_path):
    """Pictures below pics/, and a secret beside it."""
    pics = tmp_path / "pics"
    (pics / "inner").mkdir(parents=True)
    (tmp_path / "secret.jpg").write_bytes(b"secret")
    (tmp_path / "pics2").mkdir()
    (tmp_path / "pics2" / "a.jpg").write_bytes(b"secret")
    for name in ("a.jpg", "a b.jpg", "a%20b#?.jpg", "ü.jpg", "inner/a.jpg"):
        (pics / name).write_bytes(BODY)
    (pics / "empty.jpg").touch()
    (pics / "out.jpg").symlink_to(tmp_path / "secret.jpg")
    (pics / "out").symlink_to(tmp_path)
    (pics / "within.jpg").symlink_to("inner/a.jpg")
    (pics / "loop.jpg").symlink_to("loop.jpg")
    (pics / "dangling.jpg").symlink_to("gone.jpg")
    os.mkfifo(pics / "fifo.jpg")
    return tmp_path


def local(shop, **changes) -> FetchPolicy:
    folder = str(shop / "pics")
    return dataclasses.replace(FetchPolicy(file_roots=(folder,), base=folder, retries=0), **changes)


@pytest.mark.parametrize(
    "uri",
    [
        "a.jpg",
        "a b.jpg",
        "a%20b#?.jpg",
        "ü.jpg",
        "inner/../a.jpg",
        "within.jpg",
        "{pics}/a.jpg",
        "file://{pics}/a%20b.jpg",
        "file://localhost{pics}/%C3%BC.jpg",
        "file:{pics}/a.jpg",
        "FILE://{pics}/a.jpg",
    ],
)
def test_files_below_the_roots(shop, uri):
    assert fetch(uri.format(pics=shop / "pics"), local(shop)) == BODY


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        ("../secret.jpg", "outside_roots"),
        ("inner/../../secret.jpg", "outside_roots"),
        ("../pics2/a.jpg", "outside_roots"),
        ("../absent.jpg", "outside_roots"),
        ("/etc/passwd", "outside_roots"),
        ("file:///etc/passwd", "outside_roots"),
        ("file://{pics}/%2e%2e/secret.jpg", "outside_roots"),
        ("file://{pics}/..%2fsecret.jpg", "outside_roots"),
        ("/dev/zero", "outside_roots"),
        ("out.jpg", "outside_roots"),
        ("out/secret.jpg", "outside_roots"),
        ("..%2fsecret.jpg", "not_found"),
        ("absent.jpg", "not_found"),
        ("a.jpg/b.jpg", "not_found"),
        ("dangling.jpg", "not_found"),
        ("inner", "unreadable"),
        (".", "unreadable"),
        ("fifo.jpg", "unreadable"),
        ("loop.jpg", "unreadable"),
        ("x" * 300, "bad_uri"),
        ("a\0.jpg", "bad_uri"),
        ("a\n.jpg", "bad_uri"),
        ("a\ufffd.jpg", "bad_uri"),
        ("empty.jpg", "empty_body"),
    ],
)
def test_files_that_are_refused(shop, uri, reason):
    error = refusal(uri.format(pics=shop / "pics"), local(shop))
    assert (error.reason, error.transient) == (reason, False), error


def test_a_link_put_in_place_after_the_check_is_not_followed(shop, monkeypatch):
    monkeypatch.setattr(room, "_below_roots", lambda path, roots: path)
    assert refusal("out.jpg", local(shop)).reason == "unreadable"


def test_devices_are_not_read():
    assert refusal("/dev/zero", FetchPolicy(file_roots=("/dev",))).reason == "unreadable"


def test_without_roots_no_file_is_read(shop):
    error = refusal("a.jpg", local(shop, file_roots=()))
    assert (error.reason, "file_roots" in error.detail or len(error.detail) == 200) == ("outside_roots", True)


def test_a_root_may_be_a_symlink(shop):
    (shop / "link").symlink_to(shop / "pics")
    link = str(shop / "link")
    assert fetch("a.jpg", local(shop, file_roots=(link,), base=link)) == BODY
    assert fetch("a.jpg", local(shop, file_roots=(link,), base=f"file://{link}")) == BODY


def test_a_root_that_is_a_moved_link_is_followed_anew(shop):
    link, other = shop / "link", shop / "other"
    link.symlink_to(shop / "pics")
    other.mkdir()
    (other / "b.jpg").write_bytes(BODY)
    policy = local(shop, file_roots=(str(link),), base=str(link))
    assert fetch("a.jpg", policy) == BODY
    link.unlink()
    link.symlink_to(other)
    assert fetch("b.jpg", policy) == BODY
    assert refusal(str(shop / "otherwise.jpg"), policy).reason == "outside_roots"


def test_a_long_file_is_refused_before_it_is_read(shop):
    with open(shop / "pics" / "long.jpg", "wb") as file:
        file.truncate(1 << 40)  # sparse: reading it would never end
    error = refusal("long.jpg", local(shop))
    assert (error.reason, str(1 << 40) in error.detail) == ("too_many_bytes", True)
    assert fetch("a.jpg", local(shop, max_bytes=len(BODY))) == BODY
    assert refusal("a.jpg", local(shop, max_bytes=len(BODY) - 1)).reason == "too_many_bytes"


def test_storage_in_trouble_is_transient(shop, monkeypatch):
    def stale(path, flags):
        raise OSError(116, "Stale file handle")

    monkeypatch.setattr(room, "_open_real_file", stale)
    error = refusal("a.jpg", local(shop))
    assert (error.reason, error.transient) == ("unreadable", True)


def test_refused_files_leave_nothing_open(shop):
    before = len(os.listdir("/proc/self/fd"))
    for uri in ("inner", "fifo.jpg", "loop.jpg", "absent.jpg", "a.jpg"):
        for _ in range(5):
            try:
                fetch(uri, local(shop))
            except ImageError:
                continue
    assert len(os.listdir("/proc/self/fd")) == before


# --- s3


class Bucket(Faults):
    """Speaks as much of S3 as reading one object takes; keys name what happens."""

    def do_GET(self) -> None:
        self.seen[self.path] += 1
        self.close_connection = True
        errors = {
            "missing": (404, "NoSuchKey"),
            "denied": (403, "AccessDenied"),
            "slow": (503, "SlowDown"),
            "internal": (500, "InternalError"),
            "expired": (400, "ExpiredToken"),
        }
        key = self.path.partition("?")[0].rpartition("/")[2]
        if key in errors:
            status, code = errors[key]
            self.answer(status, f"<Error><Code>{code}</Code><Message>m</Message></Error>".encode())
        else:
            getattr(self, key, self.picture)()


@pytest.fixture
def store(monkeypatch, tmp_path):
    server = serving(Bucket)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    room._s3_client.cache_clear()
    yield server
    room._s3_client.cache_clear()
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("uri", ["s3://shop/a/b.jpg", "s3a://shop/a/b.jpg", "s3n://shop/a/b.jpg"])
def test_s3_object(store, uri):
    assert fetch(uri, PUBLIC) == BODY
    assert list(Faults.seen) == ["/shop/a/b.jpg"]


def test_s3_base_and_literal_keys(store):
    assert fetch("a b%20#?.jpg", dataclasses.replace(PUBLIC, base="s3://shop/pics/")) == BODY
    assert list(Faults.seen) == ["/shop/pics/a%20b%2520%23%3F.jpg"]


@pytest.mark.parametrize(
    ("key", "reason", "transient"),
    [
        ("missing", "not_found", False),
        ("denied", "http_status", False),
        ("slow", "http_status", True),
        ("internal", "http_status", True),
        ("expired", "http_status", True),
        ("empty", "empty_body", False),
        ("truncated", "connection", True),
        ("reset", "connection", True),
        ("announced", "too_many_bytes", False),
    ],
)
def test_faults_of_s3(store, key, reason, transient):
    error = refusal(f"s3://shop/{key}", PUBLIC)
    assert (error.reason, error.transient) == (reason, transient), error


def test_s3_is_tried_again_by_us_alone(store):
    refusal("s3://shop/slow", dataclasses.replace(PUBLIC, retries=1))
    assert Faults.seen["/shop/slow"] == 2


def test_s3_time_out_and_limit(store):
    assert refusal("s3://shop/silence", dataclasses.replace(PUBLIC, timeout_s=0.2)).reason == "timeout"
    assert refusal("s3://shop/a", dataclasses.replace(PUBLIC, max_bytes=9)).reason == "too_many_bytes"


def test_s3_deadline(store, monkeypatch):
    monkeypatch.setattr(room, "_CHUNK", 4)
    policy = dataclasses.replace(PUBLIC, deadline_s=0.3)
    assert refusal("s3://shop/drip", policy).reason == "timeout"


def test_s3_bucket_that_cannot_be(store):
    assert refusal("s3://no such bucket/key", PUBLIC).reason == "bad_uri"


def test_s3_client_is_made_once(store, monkeypatch):
    made = []
    original = boto3.session.Session.client
    monkeypatch.setattr(
        boto3.session.Session, "client", lambda *args, **options: made.append(1) or original(*args, **options)
    )
    for _ in range(3):
        fetch("s3://shop/a.jpg", PUBLIC)
    assert made == [1]


@pytest.mark.parametrize(
    ("uri", "base", "remote"),
    [
        ("https://shop.example/a.jpg", None, True),
        ("S3A://bucket/a.jpg", "/photos", True),
        ("a.jpg", "https://shop.example", True),
        ("a.jpg", "s3://bucket", True),
        ("a.jpg", "/photos", False),
        ("/photos/a.jpg", None, False),
        ("file:///photos/a.jpg", "https://shop.example", False),
        ("https:", None, True),
        ("", None, False),
    ],
)
def test_what_the_network_is_asked_for(uri, base, remote):
    assert is_remote(uri, FetchPolicy(base=base)) is remote
