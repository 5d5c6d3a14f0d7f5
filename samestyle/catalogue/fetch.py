"""Bytes of a catalogue picture by its URI, under a policy: what may be read, from where, how much, how long.

A catalogue is written by many suppliers, so that its URIs are not to be trusted: they must not reach into
the network that the executors stand in, read files beside the pictures, or hold up a worker.
"""

import errno
import http.client
import io
import ipaddress
import os
import re
import socket
import ssl
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from urllib.parse import SplitResult, quote, unquote, urljoin, urlsplit

from samestyle import __version__
from samestyle.catalogue.connections import Connections
from samestyle.catalogue.titles import normalise_title
from samestyle.errors import ImageError

# (checked address, port, timeout in seconds) -> a connected socket
Opener = Callable[[str, int, float], socket.socket]
Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_SAME_SCHEME = {"s3a": "s3", "s3n": "s3"}
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
_REMOTE = re.compile(r"(https?|s3[an]?):", re.IGNORECASE)
_MAX_URI = 8192
_CHUNK = 64 * 1024
_SAFE = "/?%:@!$&'()*+,;=~[]"
_FIRST_PAUSE_S = 0.2
_REDIRECTS = (301, 302, 303, 307, 308)
_HEADERS = {"User-Agent": f"samestyle/{__version__}", "Accept": "image/*,*/*;q=0.5"}
# Metadata services that are not link-local: of Alibaba, Azure (a public address) and EC2 by IPv6.
_METADATA = frozenset(map(ipaddress.ip_address, ("100.100.100.200", "168.63.129.16", "fd00:ec2::254")))
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_STORAGE_TROUBLE = {errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EMFILE, errno.ENFILE, errno.EAGAIN}
_MISSING_KEYS = {"NoSuchKey", "NoSuchBucket", "NoSuchVersion", "NotFound"}
# Answered with 400 or 403, but by our own clock, credentials or pace: no fault of the picture.
_PASSING_S3_CODES = {
    *("SlowDown", "RequestTimeout", "RequestTimeTooSkewed", "Throttling"),
    *("ExpiredToken", "InvalidToken", "InvalidAccessKeyId", "SignatureDoesNotMatch"),
}

_connections = Connections()


@dataclass(frozen=True)
class FetchPolicy:
    """What `fetch` may do. Sizes in bytes, times in seconds; small and picklable, so it travels in closures.

    schemes                 what a URI may start with; s3a and s3n count as s3
    file_roots              local folders; a file is read only below one of them, symlinks resolved
    base                    what relative URIs are resolved against: a local folder, or an http or s3 URI
    allow_private_networks  also contact private and loopback addresses; link-local ones never are
    timeout_s               connecting, and waiting for the next bytes
    deadline_s              everything together: redirects, retries and the whole body (only the look-up
                            of a host name keeps the resolver's own time)
    retries                 further attempts after a transient error
    connections_per_host    at once, of this process; s3 counts as one host; waiting is part of the deadline
    """

    schemes: tuple[str, ...] = ("file", "http", "https", "s3")
    file_roots: tuple[str, ...] = ()
    base: str | None = None
    allow_private_networks: bool = False
    max_bytes: int = 20 * 1024 * 1024
    timeout_s: float = 10.0
    deadline_s: float = 30.0
    max_redirects: int = 3
    retries: int = 2
    connections_per_host: int = 8


def open_connection(address: str, port: int, timeout_s: float) -> socket.socket:
    """Connect to an address (not a name)."""
    return socket.create_connection((address, port), timeout_s)


def fetch(uri: str, policy: FetchPolicy, opener: Opener = open_connection) -> bytes:
    """Return the bytes that `uri` names: at least one, at most `policy.max_bytes`.

    Of http and https, a host name is resolved once, all its addresses are checked, and the connection goes
    to a checked address, anew for each redirect; one that is still open serves the next picture of the same
    host. Proxy settings of the environment are ignored. s3 goes where boto3's own configuration says.

    Raises ImageError with one of these reasons; the starred ones are transient, and tried again first:
    bad_uri, forbidden_scheme, outside_roots, private_address, not_found, unreadable (* of a storage in
    trouble), too_many_bytes, empty_body, too_many_redirects, http_status (* 408, 429, 5xx), timeout *,
    connection *.
    """
    absolute = _absolute(uri, policy)
    ends = time.monotonic() + policy.deadline_s
    for attempt in range(policy.retries + 1):
        try:
            return _read(absolute, policy, ends, opener)
        except ImageError as error:
            pause = _FIRST_PAUSE_S * 2**attempt
            if not error.transient or attempt == policy.retries or time.monotonic() + pause >= ends:
                raise
            time.sleep(pause)
    raise _refusal("bad_uri", f"retries must be 0 or more, found {policy.retries}")


def is_remote(uri: str, policy: FetchPolicy) -> bool:
    """Whether `fetch` would ask the network for it."""
    return bool(_REMOTE.match(uri if _SCHEME.match(uri) else policy.base or ""))


def _read(uri: str, policy: FetchPolicy, ends: float, opener: Opener) -> bytes:
    scheme = _scheme(uri, policy)
    if scheme == "file":
        body = _read_file(uri, policy)
    elif scheme == "s3":
        body = _read_s3(uri, policy, ends)
    else:
        body = _read_http(uri, policy, ends, opener)
    if not body:
        raise _refusal("empty_body", "0 bytes")
    return body


# --- URIs


def _absolute(uri: str, policy: FetchPolicy) -> str:
    """Return `uri` with a scheme. A plain path is taken literally, only file: URIs are percent-decoded."""
    if not uri.strip() or len(uri) > _MAX_URI:
        raise _refusal("bad_uri", f"{len(uri)} characters, 1 to {_MAX_URI} expected")
    if re.search(r"[\x00-\x1f\x7f\ud800-\udfff\ufffd]", uri):
        raise _refusal("bad_uri", f"control characters, or ones that were lost on the way, in {uri!r}")
    if _SCHEME.match(uri):
        return uri
    base = policy.base or ""
    if re.match(r"https?://", base, re.IGNORECASE):
        return _joined(base.rstrip("/") + "/", uri)
    if re.match(r"s3[an]?://", base, re.IGNORECASE):
        return base.rstrip("/") + "/" + uri.lstrip("/")
    if uri.startswith("//") or not (base or uri.startswith("/")):
        raise _refusal("bad_uri", f"{uri!r} is relative and the policy has no base for it")
    folder = _file_path(base) if base.lower().startswith("file:") else os.path.abspath(base)
    return "file://" + quote(os.path.join(folder, uri))


def _joined(base: str, uri: str) -> str:
    try:
        return urljoin(base, uri)
    except ValueError as error:
        raise _refusal("bad_uri", f"{error}: {uri!r}") from error


def _scheme(uri: str, policy: FetchPolicy) -> str:
    found = uri.partition(":")[0].lower()
    scheme = _SAME_SCHEME.get(found, found)
    if scheme not in policy.schemes or scheme not in ("file", "http", "https", "s3"):
        raise _refusal("forbidden_scheme", f"{found}, allowed are {', '.join(policy.schemes)}")
    return scheme


# --- files


def _read_file(uri: str, policy: FetchPolicy) -> bytes:
    path = _below_roots(_file_path(uri), policy.file_roots)
    with _file_errors(path), open(path, "rb", opener=_open_real_file) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise _refusal("unreadable", f"{path} is not a regular file")
        _check_length(status.st_size, policy)
        return _bounded(file.read(min(policy.max_bytes, status.st_size) + 1), policy)


def _open_real_file(path: str, flags: int) -> int:
    """O_NONBLOCK: opening a pipe that nobody writes to would wait for ever."""
    return os.open(path, flags | os.O_NONBLOCK | os.O_NOFOLLOW)


def _file_path(uri: str) -> str:
    host, slash, path = uri[len("file:") :].removeprefix("//").partition("/")
    if not uri[len("file:") :].startswith("/") or host not in ("", "localhost"):
        raise _refusal("bad_uri", f"{uri!r} is not file:///path")
    path = unquote(slash + path, errors="surrogateescape")
    if "\0" in path:
        raise _refusal("bad_uri", f"NUL in {uri!r}")
    return path


def _below_roots(path: str, roots: tuple[str, ...]) -> str:
    """Return the real path of `path`, checked before anything is opened."""
    real = os.path.realpath(path)
    if _is_below(real, _known_roots(roots)) or _is_below(real, _real_roots(roots)):
        return real
    allowed = ", ".join(roots) or "none: add the folder to file_roots"
    raise _refusal("outside_roots", f"{path} is not below the allowed folders ({allowed})")


def _is_below(path: str, folders: tuple[str, ...]) -> bool:
    return any(path == folder or path.startswith(folder.rstrip("/") + "/") for folder in folders)


def _real_roots(roots: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(map(os.path.realpath, roots))


# Asking the file system for every photo costs as much as reading a small one. A root that is a link and has been moved
# is asked for again.
_known_roots = lru_cache(maxsize=16)(_real_roots)


@contextmanager
def _file_errors(path: str) -> Iterator[None]:
    try:
        yield
    except (FileNotFoundError, NotADirectoryError) as error:
        raise _refusal("not_found", f"no file {path}") from error
    except OSError as error:
        reason = "bad_uri" if error.errno == errno.ENAMETOOLONG else "unreadable"
        raise _refusal(reason, f"{error.strerror}: {path}", error.errno in _STORAGE_TROUBLE) from error


# --- http and https


def _read_http(uri: str, policy: FetchPolicy, ends: float, opener: Opener) -> bytes:
    for _ in range(policy.max_redirects + 1):
        if _scheme(uri, policy) not in ("http", "https"):
            raise _refusal("forbidden_scheme", f"redirect to {uri}")
        status, location, body = _request(_split(uri), policy, ends, opener)
        if status not in _REDIRECTS or not location:
            return _checked_body(status, body, urlsplit(uri).netloc)
        # Headers arrive as Latin-1, whatever the bytes meant: they go back as they came.
        uri = _joined(uri, quote(location, safe=_SAFE + "#", encoding="latin-1"))
    raise _refusal("too_many_redirects", f"more than {policy.max_redirects}, the last one to {uri}")


def _split(uri: str) -> SplitResult:
    try:
        parts = urlsplit(uri)
        _ = parts.port
    except ValueError as error:
        raise _refusal("bad_uri", f"{error}: {uri!r}") from error
    if not parts.hostname or parts.username is not None or re.search(r"[\x00-\x20\x7f]", parts.netloc):
        raise _refusal("bad_uri", f"{uri!r} is not http(s)://host/path")
    return parts


@dataclass(frozen=True)
class _Site:
    """All that must be equal for a connection to serve another request: who it is, and who may be contacted how."""

    secure: bool
    host: str
    port: int
    private: bool
    opener: Opener


def _site(parts: SplitResult, policy: FetchPolicy, opener: Opener) -> _Site:
    secure = parts.scheme.lower() == "https"
    port = parts.port or (443 if secure else 80)
    return _Site(secure, _ascii_host(parts), port, policy.allow_private_networks, opener)


def _request(parts: SplitResult, policy: FetchPolicy, ends: float, opener: Opener) -> tuple[int, str | None, bytes]:
    """Return the status, the Location header and, of status 200 only, the body."""
    site = _site(parts, policy, opener)
    slot = _connections.slot(f"{site.host}:{site.port}", policy.connections_per_host, ends)
    with _network_errors(parts.netloc, ends), slot:
        kept = _connections.take(site)
        if kept:
            with suppress(ConnectionError):  # its server has ended it while the request was on its way
                return _exchange(kept, site, parts, policy, ends)
        return _exchange(_connect(site, policy, ends), site, parts, policy, ends)


def _exchange(
    connection: http.client.HTTPConnection, site: _Site, parts: SplitResult, policy: FetchPolicy, ends: float
) -> tuple[int, str | None, bytes]:
    """One request and its answer, as _request returns it. The connection is kept where nothing is left in it."""
    sock, kept = connection.sock, False
    try:
        sock.settimeout(_patience(policy, ends))
        with _cut_off(sock, ends):
            connection.request("GET", _target(parts), headers=_HEADERS)
            # Many a server sends the body only once its header is acknowledged, which else takes 40 ms.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
            with connection.getresponse() as response:
                body = _http_body(response, policy)
                whole = response.isclosed() and connection.sock is not None
        kept = whole
        return response.status, response.getheader("Location"), body
    finally:
        if kept:
            _connections.give(site, connection)
        else:
            connection.close()
            sock.close()


def _connect(site: _Site, policy: FetchPolicy, ends: float) -> http.client.HTTPConnection:
    """Connect to a checked address; the name is only for the Host header and for TLS."""
    sock = _first_answering(_checked_addresses(site.host, site.port, policy), site, policy, ends)
    sock.settimeout(_patience(policy, ends))
    if not site.secure:
        connection = http.client.HTTPConnection(site.host, site.port)
    else:
        connection = http.client.HTTPSConnection(site.host, site.port, context=_tls_context())
        sock = _tls_context().wrap_socket(sock, server_hostname=site.host)
    # http.client connects by itself, by name, only where it finds no socket.
    connection.sock = sock
    connection.auto_open = 0
    return connection


def _patience(policy: FetchPolicy, ends: float) -> float:
    return max(0.001, min(policy.timeout_s, ends - time.monotonic()))


def _ascii_host(parts: SplitResult) -> str:
    try:
        host = (parts.hostname or "").encode("idna").decode("ascii")
    except UnicodeError as error:
        raise _refusal("bad_uri", f"no host name: {parts.hostname!r}") from error
    if not re.fullmatch(r"[A-Za-z0-9_.:-]+", host):
        raise _refusal("bad_uri", f"no host name: {host!r}")
    return host


def _checked_addresses(host: str, port: int, policy: FetchPolicy) -> list[str]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    for address in addresses:
        if not _may_contact(ipaddress.ip_address(address.partition("%")[0]), policy.allow_private_networks):
            raise _refusal("private_address", f"{host} is {address}, not an address of the public internet")
    return addresses


def _may_contact(address: Address, private: bool) -> bool:
    address = _inner(address)
    if address.is_link_local or address.is_multicast or address.is_unspecified or address in _METADATA:
        return False
    return private or (address.is_global and not address.is_reserved)


def _inner(address: Address) -> Address:
    """Return the IPv4 address that an IPv6 address leads to, where it wraps one."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or address


def _first_answering(addresses: list[str], site: _Site, policy: FetchPolicy, ends: float) -> socket.socket:
    failure: OSError = TimeoutError("no time left to connect")
    for address in addresses:
        if time.monotonic() >= ends:
            break
        try:
            return site.opener(address, site.port, _patience(policy, ends))
        except OSError as error:
            failure = error
    raise failure


@lru_cache(maxsize=1)
def _tls_context() -> ssl.SSLContext:
    return ssl.create_default_context()


def _target(parts: SplitResult) -> str:
    """Return path and query as ASCII; what is percent-encoded already stays as it is."""
    path = parts.path or "/"
    return quote(f"{path}?{parts.query}" if parts.query else path, safe=_SAFE)


@contextmanager
def _cut_off(sock: socket.socket, ends: float) -> Iterator[None]:
    """End all waiting on `sock` when the time is up: a body, or headers, that drip never meet a time-out."""

    def hang_up() -> None:
        with suppress(OSError):
            # The plain socket's method: that of a TLS socket would pull its state from under the reader.
            socket.socket.shutdown(sock, socket.SHUT_RDWR)

    timer = threading.Timer(max(0.0, ends - time.monotonic()), hang_up)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
    if time.monotonic() >= ends:  # a body without a length ends like a whole one when we hang up
        raise TimeoutError("the deadline has passed")


@contextmanager
def _network_errors(host: str, ends: float) -> Iterator[None]:
    try:
        yield
    except (OSError, http.client.HTTPException) as error:
        late = isinstance(error, TimeoutError) or time.monotonic() >= ends
        what = f"{host}: {type(error).__name__}: {error}"
        raise _refusal("timeout" if late else "connection", what, transient=True) from error


def _http_body(response: http.client.HTTPResponse, policy: FetchPolicy) -> bytes:
    """Return the body of status 200; of another, skip what has arrived, so that the connection can be kept."""
    if response.status != 200:
        if response.length == 0 or (response.length and len(response.peek()) >= response.length):
            response.read()
        return b""
    announced = response.length
    _check_length(announced or 0, policy)
    body = _bounded(response.read(policy.max_bytes + 1), policy)
    if announced is not None and len(body) < announced:
        raise http.client.IncompleteRead(body, announced - len(body))
    return body


def _checked_body(status: int, body: bytes, host: str) -> bytes:
    if status == 200:
        return body
    if status in (404, 410):
        raise _refusal("not_found", f"{host} answered {status}")
    transient = status in (408, 429) or status >= 500
    raise _refusal("http_status", f"{host} answered {status}, expected 200", transient)


# --- s3


def _read_s3(uri: str, policy: FetchPolicy, ends: float) -> bytes:
    bucket, _, key = uri.partition("://")[2].partition("/")  # a key is literal: '%', '?' and '#' belong to it
    if not bucket or not key:
        raise _refusal("bad_uri", f"{uri!r} is not s3://bucket/key")
    with _s3_errors(bucket):
        most = policy.connections_per_host
        client = _s3_client(policy.timeout_s, most)
        with _connections.slot(client.meta.endpoint_url, most, ends):
            found = client.get_object(Bucket=bucket, Key=key)
            with closing(found["Body"]) as stream:
                _check_length(found["ContentLength"], policy)
                return _s3_body(stream, policy, ends)


@lru_cache(maxsize=4)
def _s3_client(timeout_s: float, connections: int) -> Any:
    import boto3
    from botocore.config import Config

    # One attempt: `fetch` itself tries again, under its deadline.
    once = Config(
        connect_timeout=timeout_s,
        read_timeout=timeout_s,
        retries={"total_max_attempts": 1},
        max_pool_connections=connections,
    )
    return boto3.session.Session().client("s3", config=once)


def _s3_body(stream: Any, policy: FetchPolicy, ends: float) -> bytes:
    body = io.BytesIO()
    for chunk in stream.iter_chunks(_CHUNK):
        body.write(chunk)
        _check_length(body.tell(), policy)
        if time.monotonic() >= ends:
            raise _refusal("timeout", f"{body.tell()} bytes within {policy.deadline_s} s", transient=True)
    return body.getvalue()


@contextmanager
def _s3_errors(bucket: str) -> Iterator[None]:
    from botocore import exceptions

    try:
        yield
    except exceptions.ClientError as error:
        raise _s3_refusal(bucket, error.response) from error
    except exceptions.ParamValidationError as error:
        raise _refusal("bad_uri", str(error)) from error
    except (exceptions.ConnectTimeoutError, exceptions.ReadTimeoutError, TimeoutError) as error:
        raise _refusal("timeout", f"{bucket}: {error}", transient=True) from error
    except (exceptions.BotoCoreError, exceptions.HTTPClientError, OSError) as error:
        raise _refusal("connection", f"{bucket}: {error}", transient=True) from error


def _s3_refusal(bucket: str, response: Any) -> ImageError:
    code = str(response.get("Error", {}).get("Code", ""))
    status = int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    if code in _MISSING_KEYS or status == 404:
        return _refusal("not_found", f"{bucket} answered {code or status}")
    transient = code in _PASSING_S3_CODES or status in (408, 429) or status >= 500
    return _refusal("http_status", f"{bucket} answered {status} {code}, expected 200", transient)


# --- limits and refusals


def _check_length(announced: int, policy: FetchPolicy) -> None:
    if announced > policy.max_bytes:
        raise _refusal("too_many_bytes", f"{announced} bytes, at most {policy.max_bytes} allowed")


def _bounded(body: bytes, policy: FetchPolicy) -> bytes:
    if len(body) > policy.max_bytes:
        raise _refusal("too_many_bytes", f"more than the {policy.max_bytes} bytes allowed")
    return body


def _refusal(reason: str, detail: str, transient: bool = False) -> ImageError:
    return ImageError(reason, normalise_title(detail, 200) or "", transient)
