"""Fuzzing of what a catalogue holds: no exception but ImageError, the right reason, nothing that ends the process.

`make test` takes a few cases of each kind, `make soak` the full count.
"""

import socket
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from hostile import INNER, MAX_BYTES, NEVER, Case, address, hostile_site, images, titles, uris

from samestyle.catalogue import fetch as room
from samestyle.catalogue.decoder import supervised_decoder
from samestyle.catalogue.fetch import FetchPolicy, fetch
from samestyle.catalogue.images import DecodeLimits, decode_image
from samestyle.catalogue.titles import normalise_title
from samestyle.encoder.contents import Content, Outcome, prepared
from samestyle.errors import ImageError

LIMITS, SIZE = DecodeLimits(), 224
SHOP, SHOP_ADDRESS = "http://shop.example", "93.184.216.34"
ALWAYS_PASSING, NEVER_PASSING = {"timeout", "connection"}, {"private_address", "bad_uri", "too_many_bytes"}


def counts(full: int, share: int) -> pytest.MarkDecorator:
    """The full count for the soak, a share of it, with another seed, for every day."""
    all_of_them = pytest.param(full, 2, id="all", marks=pytest.mark.soak)
    return pytest.mark.parametrize(("count", "seed"), [pytest.param(share, 1, id="share"), all_of_them])


def check(case: Case, outcome: Outcome) -> None:
    """A content without a title has pixels, or is rejected for one of the case's reasons."""
    assert outcome.reason in case.reasons, f"{case.kind}: {outcome.reason}: {outcome.detail}"
    assert len(outcome.detail or "") <= 200
    assert (outcome.detail or "").isprintable()
    if outcome.reason is None:
        assert outcome.outcome == "embedded"
        assert outcome.pixels is not None
        assert (outcome.pixels.shape, outcome.pixels.dtype) == ((SIZE, SIZE, 3), np.uint8)
    else:
        assert (outcome.outcome, outcome.pixels) == ("rejected", None)


@counts(1000, 58)
def test_images(count, seed):
    """Twice: here, and in a child that a crash, a minute, or more memory than the limits can need would end."""
    ended: Counter[str] = Counter()
    here = partial(decode_image, limits=LIMITS, size=SIZE)
    with supervised_decoder(LIMITS, SIZE) as there:
        for case in images(count, seed):
            outcome, confined = (
                prepared(Content(None, None, "a.jpg"), lambda _, found=case.value: found, decode)
                for decode in (here, there)
            )
            check(case, outcome)
            assert not outcome.transient
            assert (confined.reason, confined.detail) == (outcome.reason, outcome.detail)
            assert outcome.pixels is None or np.array_equal(confined.pixels, outcome.pixels)
            ended[outcome.reason or "a picture"] += 1
    assert ended.total() == count
    print(f"\n{count} images: {dict(ended.most_common())}")


@pytest.fixture
def shop(monkeypatch) -> Iterator[partial]:
    """fetch, for whom a hostile server stands at a public address, and any other must not even be tried."""
    real = socket.getaddrinfo

    def resolve(host, port, *args, **options):
        if host == "shop.example":
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (SHOP_ADDRESS, port))]
        return real(host, port, *args, **{**options, "flags": socket.AI_NUMERICHOST})

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    monkeypatch.setattr(room, "_FIRST_PAUSE_S", 0.0)
    with hostile_site() as port:

        def opener(address, _, timeout_s):
            assert address == SHOP_ADDRESS, f"a connection to {address} was tried"
            link = socket.socket()
            link.settimeout(timeout_s)
            link.connect(("127.0.0.1", port))
            return link

        yield partial(fetch, opener=opener)


@pytest.fixture
def policy(tmp_path) -> FetchPolicy:
    folder = str(tmp_path)
    return FetchPolicy(file_roots=(folder,), base=folder, max_bytes=MAX_BYTES, timeout_s=3, deadline_s=3, retries=0)


@counts(500, 64)
def test_uris(shop, policy, count, seed):
    """Many at once, as a worker fetches them."""
    ended: Counter[str] = Counter()
    fetched, decode = partial(shop, policy=policy), partial(decode_image, limits=LIMITS, size=SIZE)
    cases = list(uris(count, seed, SHOP, f"{NEVER} {INNER}"))
    with ThreadPoolExecutor(8) as pool:
        outcomes = pool.map(lambda case: prepared(Content(None, None, case.value), fetched, decode), cases)
        for case, outcome in zip(cases, outcomes, strict=True):
            check(case, outcome)
            assert outcome.transient or outcome.reason not in ALWAYS_PASSING
            assert not (outcome.transient and outcome.reason in NEVER_PASSING)
            ended[outcome.reason or "a picture"] += 1
    print(f"\n{count} URIs: {dict(ended.most_common())}")


@counts(500, 50)
def test_names_that_resolve_inside(monkeypatch, count, seed):
    """One inner address among public ones is enough, wherever it stands."""
    draw = np.random.default_rng(seed)

    def never(address, port, timeout_s):
        pytest.fail(f"a connection to {address} was tried")

    for _ in range(count):
        found = [SHOP_ADDRESS] * int(draw.integers(0, 4))
        found.insert(int(draw.integers(0, len(found) + 1)), str(address(draw, f"{NEVER} {INNER}")))
        answer = [(socket.AF_UNSPEC, socket.SOCK_STREAM, 6, "", (one, 80)) for one in found]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, answer=answer, **__: answer)
        with pytest.raises(ImageError) as caught:
            fetch(f"{draw.choice(['http', 'https'])}://cdn.example/a.jpg", FetchPolicy(), opener=never)
        assert caught.value.reason == "private_address", found


@pytest.mark.parametrize("path", ["announced", "endless"])
def test_a_body_without_end_takes_no_more_memory_than_the_limit(shop, policy, path):
    tracemalloc.start()
    with pytest.raises(ImageError) as caught:
        shop(f"{SHOP}/{path}", replace(policy, deadline_s=60))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert caught.value.reason == "too_many_bytes"
    assert peak < 4 * MAX_BYTES


@counts(500, 45)
def test_titles(count, seed):
    for title in titles(count, seed):
        text = normalise_title(title)
        if text is not None:
            assert 1 <= len(text) <= 512
            assert text == text.strip() == normalise_title(text)
            assert not any(ord(c) < 32 or 127 <= ord(c) < 160 or 0xD800 <= ord(c) < 0xE000 for c in text)
            text.encode()
