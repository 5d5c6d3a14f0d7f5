"""What a catalogue can hold, drawn with a seed: damaged and odd images, URIs that lead astray, titles that are none.

Each case says which reasons it may end with; None stands for a picture. Cases cycle through their kinds, so that
a small count has some of each.
"""

import gzip
import http.server
import io
import ipaddress
import socket
import struct
import threading
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from itertools import cycle, islice
from typing import Generic, TypeVar

import numpy as np
from PIL import Image

Draw = np.random.Generator
Value = TypeVar("Value", bytes, str)
MAX_BYTES = 2**20  # of a photo, for the tests that use these cases

UNCLEAR = frozenset({None, "truncated", "broken", "not_an_image", "too_large", "too_small"})
CUT = frozenset({"truncated", "broken", "not_an_image"})
PICTURE: frozenset[str | None] = frozenset({None})


@dataclass(frozen=True)
class Case(Generic[Value]):
    """`value`: bytes of an image, or a URI. `reasons`: how it may end."""

    kind: str
    value: Value
    reasons: frozenset[str | None]


def pick(draw: Draw, options: Sequence[str]) -> str:
    """As draw.choice, which loses NULs at the end."""
    return options[int(draw.integers(len(options)))]


# --- images


def scene(draw: Draw, mode: str = "RGB") -> Image.Image:
    width, height = (int(side) for side in draw.integers(16, 400, 2))
    blocks = draw.integers(0, 256, (5, 7, 3), dtype=np.uint8)
    return Image.fromarray(blocks).resize((width, height), Image.Resampling.BICUBIC).convert(mode)


def saved(picture: Image.Image, kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    picture.save(out, kind, **options)
    return out.getvalue()


def animated(draw: Draw, kind: str) -> bytes:
    first = scene(draw)
    return saved(first, kind, save_all=True, append_images=[first.rotate(180)] * 5)


def turned(draw: Draw) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = int(draw.integers(0, 12))  # 1 to 8 mean something
    return saved(scene(draw), pick(draw, ["JPEG", "PNG", "WEBP", "TIFF"]), exif=exif)


def deep(draw: Draw) -> bytes:
    """16 and 32 bits a sample."""
    values = draw.integers(0, 2**16, (40, 60))
    kinds = [(np.uint16, "PNG"), (np.uint16, "TIFF"), (np.int32, "TIFF"), (np.float32, "TIFF")]
    dtype, kind = kinds[draw.integers(len(kinds))]
    return saved(Image.fromarray(values.astype(dtype)), kind)


WHOLE: dict[str, Callable[[Draw], bytes]] = {
    "jpeg": lambda draw: saved(scene(draw), "JPEG"),
    "progressive": lambda draw: saved(scene(draw), "JPEG", progressive=True),
    "png": lambda draw: saved(scene(draw), "PNG"),
    "webp": lambda draw: saved(scene(draw), "WEBP"),
    "gif": lambda draw: saved(scene(draw), "GIF"),
    "bmp": lambda draw: saved(scene(draw), "BMP"),
    "tiff": lambda draw: saved(scene(draw), "TIFF", compression="tiff_lzw"),
    "cmyk": lambda draw: saved(scene(draw, "CMYK"), pick(draw, ["JPEG", "TIFF"])),
    "deep": deep,
    "alpha": lambda draw: saved(scene(draw, "RGBA"), pick(draw, ["PNG", "WEBP", "TIFF"])),
    "palette": lambda draw: saved(scene(draw).quantize(int(draw.integers(2, 256))), "PNG"),
    "grey": lambda draw: saved(scene(draw, pick(draw, ["L", "LA", "1"])), "PNG"),
    "exif": turned,
    "animated": lambda draw: animated(draw, pick(draw, ["GIF", "PNG", "WEBP"])),
}


def whole(draw: Draw) -> bytes:
    return WHOLE[pick(draw, list(WHOLE))](draw)


def truncated(draw: Draw) -> bytes:
    """Ends in the first half: of what is read of a file in order, pixels are missing."""
    data = WHOLE[pick(draw, ["jpeg", "progressive", "png", "webp", "gif", "bmp"])](draw)
    return data[: int(draw.integers(1, len(data) // 2))]


def cut_anywhere(draw: Draw) -> bytes:
    data = whole(draw)
    return data[: int(draw.integers(1, len(data)))]


def flipped(draw: Draw) -> bytes:
    data = np.frombuffer(whole(draw), np.uint8).copy()
    places = draw.integers(0, len(data), int(draw.integers(1, 50)))
    data[places] ^= (1 << draw.integers(0, 8, len(places))).astype(np.uint8)
    return data.tobytes()


def flipped_header(draw: Draw) -> bytes:
    """Random bytes behind the mark by which the format is told: sizes, offsets and counts become nonsense."""
    data = bytearray(whole(draw))
    start, end = 12, min(len(data), 80)
    data[start:end] = draw.integers(0, 256, end - start, dtype=np.uint8).tobytes()
    return bytes(data)


def spliced(draw: Draw) -> bytes:
    one, other = whole(draw), whole(draw)
    return one[: int(draw.integers(1, len(one)))] + other[int(draw.integers(0, len(other))) :]


def masked(draw: Draw) -> bytes:
    """The mark of one format before the content of another."""
    return b"\xff\xd8\xff\xe0" + WHOLE["png"](draw)[4:]


def png(width: int, height: int, pixels: bytes, *before: bytes) -> bytes:
    """A PNG of these sides with these compressed pixels, RGB."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(before) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def bomb(draw: Draw) -> bytes:
    """A few kB that unpack to tens of MB: in a text or profile, or behind the pixels."""
    zeros = packed_zeros(30 * 2**20)
    pixels = zlib.compress(bytes((1 + 3 * 64) * 64))
    kinds = [
        png(64, 64, pixels, chunk(b"zTXt", b"a\0\0" + zeros)),
        png(64, 64, pixels, chunk(b"iTXt", b"a\0\1\0\0\0" + zeros)),
        png(64, 64, pixels, chunk(b"iCCP", b"a\0\0" + zeros)),
        png(64, 64, zeros),
    ]
    return kinds[draw.integers(len(kinds))]


@lru_cache
def packed_zeros(count: int) -> bytes:
    return zlib.compress(bytes(count), 9)


def large(draw: Draw) -> bytes:
    """Within the limits, and a thousand times its weight as pixels."""
    side = 4000
    return png(side, side, packed_zeros((1 + 3 * side) * side))


def archive(draw: Draw) -> bytes:
    """A zip or gzip that would unpack to far more than it weighs."""
    if draw.random() < 0.5:
        return packed_gzip()
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("photo.jpg", bytes(int(draw.integers(1, 10)) * 2**16))
    return out.getvalue()


@lru_cache
def packed_gzip() -> bytes:
    return gzip.compress(bytes(30 * 2**20))


def huge(draw: Draw) -> bytes:
    """Sides beyond the limits, in the header or for real."""
    side, other = int(draw.integers(16_001, 2**31)), int(draw.integers(8, 2**31))
    kinds: list[Callable[[], bytes]] = [
        lambda: png(side, other, zlib.compress(bytes(100))),
        lambda: png(other, side, zlib.compress(bytes(100))),
        lambda: saved(Image.new("RGB", (30_000, 8)), "PNG"),
        lambda: saved(Image.new("L", (8, 30_000)), "JPEG"),
        lambda: b"GIF89a" + struct.pack("<HH", 65_535, 65_535) + WHOLE["gif"](draw)[10:],
        lambda: b"BM" + WHOLE["bmp"](draw)[2:18] + struct.pack("<ii", 30_000, 30_000) + bytes(100),
    ]
    return kinds[draw.integers(len(kinds))]()


def tiny(draw: Draw) -> bytes:
    sides = (1, 1) if draw.random() < 0.5 else (int(draw.integers(1, 8)), int(draw.integers(1, 4000)))
    return saved(Image.new("RGB", sides), pick(draw, ["PNG", "JPEG", "GIF", "WEBP", "BMP"]))


def page(draw: Draw) -> bytes:
    pages = [b"<!DOCTYPE html><html>404</html>", b"<svg xmlns='x'/>", b'{"error": "gone"}', b"%PDF-1.7", b"not found"]
    return pages[draw.integers(len(pages))] * int(draw.integers(1, 1000))


def noise(draw: Draw) -> bytes:
    return b"\0" + draw.integers(0, 256, int(draw.integers(1, 5000)), dtype=np.uint8).tobytes()


IMAGES: dict[str, tuple[Callable[[Draw], bytes], frozenset[str | None]]] = {
    **{kind: (make, PICTURE) for kind, make in WHOLE.items()},
    "truncated": (truncated, CUT),
    "cut anywhere": (cut_anywhere, UNCLEAR),
    "flipped bits": (flipped, UNCLEAR),
    "flipped header": (flipped_header, UNCLEAR),
    "spliced": (spliced, UNCLEAR),
    "masked": (masked, CUT),
    "bomb": (bomb, frozenset({None, "broken"})),
    "large": (large, PICTURE),
    "archive": (archive, frozenset({"not_an_image"})),
    "huge": (huge, frozenset({"too_large", "broken"})),
    "tiny": (tiny, frozenset({"too_small"})),
    "page": (page, frozenset({"not_an_image"})),
    "noise": (noise, frozenset({"not_an_image"})),
    "zeros": (lambda draw: bytes(int(draw.integers(1, 10**6))), frozenset({"not_an_image"})),
    "empty": (lambda draw: b"", frozenset({"empty_body"})),
}


def images(count: int, seed: int) -> Iterator[Case[bytes]]:
    """Cases of `count` images; the same for the same seed."""
    draw = np.random.default_rng(seed)
    for kind in islice(cycle(IMAGES), count):
        make, reasons = IMAGES[kind]
        yield Case(kind, make(draw), reasons)


# --- URIs

# Never contacted, whatever the settings say; and those that only a setting opens.
NEVER = "169.254.0.0/16 100.100.100.200/32 168.63.129.16/32 0.0.0.0/32 224.0.0.0/4 fe80::/10 ff00::/8 fd00:ec2::254/128"
INNER = "10.0.0.0/8 172.16.0.0/12 192.168.0.0/16 127.0.0.0/8 100.64.0.0/10 240.0.0.0/4 192.0.2.0/24 ::1/128 fc00::/7"
SECRETS = ("/etc/passwd", "/etc/shadow", "/proc/self/environ", "/etc/ssl/private/key.pem", "/dev/zero", "/dev/stdin")
SCHEMES = ("ftp", "gopher", "javascript", "data", "jar", "dict", "ldap", "sftp", "smb", "netdoc", "mailto", "httpx")


def address(draw: Draw, networks: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    network = ipaddress.ip_network(pick(draw, networks.split()))
    return network[int(draw.integers(0, min(network.num_addresses, 2**62)))]


def host(draw: Draw, networks: str) -> str:
    """An address of these networks as the host of a URI, in one of the ways in which it can be written."""
    found = address(draw, networks)
    if isinstance(found, ipaddress.IPv6Address):
        return f"[{found}]"
    number = int(found)
    first, second, third, fourth = found.packed
    ways = [
        str(found),
        str(number),
        hex(number),
        f"0{number:o}",
        f"{first}.{second}.{third * 256 + fourth}",
        f"0{first:o}.{hex(second)}.{third}.{fourth}",
        f"[::ffff:{found}]",
        f"[64:ff9b::{number >> 16:x}:{number & 0xFFFF:x}]",
        f"[2002:{number >> 16:x}:{number & 0xFFFF:x}::1]",
    ]
    return pick(draw, ways)


def secret(draw: Draw) -> str:
    path = pick(draw, SECRETS)
    dots = "../" * int(draw.integers(1, 30))
    ways = ["{0}", "file://{0}", "file:{0}", "FILE://{0}", "file://localhost{0}", "{1}{0}", "inner/{1}{0}", "./{1}{0}"]
    encoded = path.replace("/", "%2f").replace("e", "%65")
    return pick(draw, [*ways, "file:///%2e%2e{2}", "file:///{2}"]).format(path, dots, encoded)


def redirect(draw: Draw, site: str, networks: str) -> str:
    way = pick(draw, ["http://{}/a.jpg", "https://{}/", "//{}/latest/meta-data/", "http://{}:22/"])
    return f"{site}/redirect/{way.format(host(draw, networks))}"


def garbled(draw: Draw, uri: str) -> str:
    """With a control character, a lone surrogate or a line end in it."""
    place = int(draw.integers(0, len(uri) + 1))
    odd = pick(draw, ["\0", "\r\n", "\x1b[2J", "\x7f", "\t", "\ud800", "\udfff\ud800"])
    return uri[:place] + odd + uri[place:]


def malformed(draw: Draw, site: str) -> str:
    plain = site.partition("://")[2]
    ways = [
        *("http://", "http:///a.jpg", "http:a.jpg", "http://[::1/", "http://[bad]/", "http://a b/", "https://:80/"),
        *(f"http://user:word@{plain}/picture", f"http://@{plain}/picture", "http://.example/", "http://a..b/"),
        *("http://host:99999/", "http://host:port/", "s3://", "s3://bucket", "s3:///key", "s3://no such bucket/key"),
        *("file://host/share/a.jpg", "file:a.jpg", "//host/a.jpg", "x" * 300, "", "   ", "\u2028"),
        *("http://" + "a" * 64 + ".example/", "http://\u2100.example/", f"{site}/{'a' * 10**6}", "a" * 10**6),
    ]
    return pick(draw, ways)


def foreign(draw: Draw) -> str:
    return f"{pick(draw, SCHEMES)}://127.0.0.1/a.jpg"


def uris(count: int, seed: int, site: str, networks: str) -> Iterator[Case[str]]:
    """Cases of `count` URIs. site: the hostile server's address; networks: those that must never be contacted."""
    draw = np.random.default_rng(seed)
    pages: dict[str, tuple[list[str], str | None]] = {
        "picture": (["picture"], None),
        "heavy": (["announced", "endless"], "too_many_bytes"),
        "slow": (["drip", "drip_headers", "drip_endless", "silence"], "timeout"),
        "rude": (["reset", "nonsense", "truncated"], "connection"),
        "elsewhere": (["redirect/file:///etc/passwd", "redirect/ftp://a/", "redirect/s3://a/b"], "forbidden_scheme"),
        "circle": (["circle"], "too_many_redirects"),
        "failing": (["status/500", "status/429", "status/403"], "http_status"),
        "gone": (["status/404", "status/410"], "not_found"),
        "page": (["page"], "not_an_image"),
        "nothing": (["nothing"], "empty_body"),
    }
    made: dict[str, tuple[Callable[[], str], frozenset[str | None]]] = {
        "secret": (lambda: secret(draw), frozenset({"outside_roots", "not_found", "bad_uri"})),
        "inside": (lambda: f"http://{host(draw, networks)}/", frozenset({"private_address"})),
        "redirected": (lambda: redirect(draw, site, networks), frozenset({"private_address"})),
        "garbled": (lambda: garbled(draw, f"{site}/picture"), frozenset({"bad_uri"})),
        "malformed": (lambda: malformed(draw, site), frozenset({"bad_uri"})),
        "foreign": (lambda: foreign(draw), frozenset({"forbidden_scheme"})),
    }
    for kind in islice(cycle([*made, *pages]), count):
        if kind in made:
            make, reasons = made[kind]
            yield Case(kind, make(), reasons)
        else:
            paths, reason = pages[kind]
            yield Case(kind, f"{site}/{pick(draw, paths)}", frozenset({reason}))


class HostileSite(http.server.BaseHTTPRequestHandler):
    """Does what the path says, until its client has had enough."""

    protocol_version = "HTTP/1.1"
    body = saved(Image.new("RGB", (64, 48), "red"), "PNG")

    def log_message(self, *args: object) -> None:
        pass

    def handle(self) -> None:
        with suppress(OSError):  # the client hangs up
            super().handle()

    def do_GET(self) -> None:
        kind, _, value = self.path.removeprefix("/").partition("/")
        getattr(self, kind)(*([value] if value else []))

    def answer(self, status: int, body: bytes = b"", length: int | None = None, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body) if length is None else length), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def pour(self, drop: bytes, pause_s: float) -> None:
        self.close_connection = True
        while True:
            self.wfile.write(drop)
            time.sleep(pause_s)

    def picture(self) -> None:
        self.answer(200, self.body)

    def page(self) -> None:
        self.answer(200, b"<html>not found</html>")

    def nothing(self) -> None:
        self.answer(200)

    def status(self, value: str) -> None:
        self.answer(int(value), b"an error page")

    def redirect(self, target: str) -> None:
        self.answer(302, b"moved", Location=target)

    def circle(self) -> None:
        self.redirect("/circle")

    def announced(self) -> None:
        self.answer(200, length=10 * 2**30)
        self.pour(bytes(2**16), 0)

    def endless(self) -> None:
        self.wfile.write(b"HTTP/1.1 200 x\r\n\r\n")
        self.pour(bytes(2**16), 0)

    def drip(self) -> None:
        self.answer(200, length=10**6)
        self.pour(b"x", 0.02)

    def drip_headers(self) -> None:
        self.wfile.write(b"HTTP/1.1 200 x\r\nX-Slow: ")
        self.pour(b"x", 0.02)

    def drip_endless(self) -> None:
        self.wfile.write(b"HTTP/1.1 200 x\r\n\r\n")
        self.pour(b"x", 0.02)

    def silence(self) -> None:
        self.close_connection = True
        self.connection.recv(1)

    def reset(self) -> None:
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def nonsense(self) -> None:
        self.close_connection = True
        self.wfile.write(b"220 mail.example ESMTP\r\n")

    def truncated(self) -> None:
        self.close_connection = True
        self.answer(200, self.body, length=len(self.body) + 1)


@contextmanager
def hostile_site() -> Iterator[int]:
    """The port of loopback at which HostileSite answers."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), HostileSite)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()


# --- titles


def flood(draw: Draw) -> str:
    """A letter under more accents than a page has letters, in no order."""
    marks = "\u0300\u0323\u0327\u0345\u05b0\u0f71"
    return "a" + "".join(draw.choice(list(marks), 200_000))


TITLES: dict[str, Callable[[Draw], str]] = {
    "plain": lambda draw: f"red mug {draw.integers(10**6)}",
    "control": lambda draw: "red\0\x1b[31m\r\n\tmug\x7f\x85" * int(draw.integers(1, 50)),
    "blank": lambda draw: " \t\n\u00a0\u2003\u2028" * int(draw.integers(1, 50)),
    "invisible": lambda draw: "\u200b\u200d\ufeff\u2060" * int(draw.integers(1, 50)),
    "turned": lambda draw: "\u202ered\u2066 mug\u061c" * int(draw.integers(1, 50)),
    "million": lambda draw: "red mug " * 131_072,
    "one word": lambda draw: "m" * 2**20,
    "flood": flood,
    "emoji": lambda draw: "\U0001f469\u200d\U0001f469\u200d\U0001f467" * int(draw.integers(1, 200)),
    "noncharacters": lambda draw: "mug \ufffe\uffff\U0010ffff" * int(draw.integers(1, 50)),
    "anything": lambda draw: "".join(map(chr, draw.integers(1, 0xD800, int(draw.integers(1, 3000))))),
    "markup": lambda draw: "<script>alert(1)</script>{{7*7}}' OR 1=1 --" * int(draw.integers(1, 20)),
    "empty": lambda draw: "",
}
SURROGATES: dict[str, Callable[[Draw], str]] = {
    "lone": lambda draw: f"red \ud83d mug {draw.integers(10**6)}",
    "swapped": lambda draw: "\udc69\ud83d" * int(draw.integers(1, 50)),
}


def titles(count: int, seed: int, surrogates: bool = True) -> Iterator[str]:
    """`count` titles, with lone surrogates among them where wanted: no UTF-8 can hold these."""
    draw, kinds = np.random.default_rng(seed), TITLES | (SURROGATES if surrogates else {})
    return (kinds[kind](draw) for kind in islice(cycle(kinds), count))
