"""Decoding in a child process: what it says, and what a picture that ends it costs."""

import io
import os
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from samestyle.catalogue.decoder import CRASH, supervised_decoder
from samestyle.catalogue.images import DecodeLimits, decode_image
from samestyle.errors import ImageError, SamestyleError

ROOT = Path(__file__).resolve().parents[2]
LIMITS = DecodeLimits()
MIB = 2**20


def picture(colour: str = "red", side: int = 64) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (side, side // 2), colour).save(out, "PNG")
    return out.getvalue()


def refusal(decode, data: bytes) -> ImageError:
    with pytest.raises(ImageError) as caught:
        decode(data)
    assert not caught.value.transient
    assert len(caught.value.detail) <= 200
    return caught.value


def process_of(pixels: np.ndarray) -> int:
    return int.from_bytes(pixels.reshape(-1)[:4].tobytes(), "big")


def is_alive(process: int) -> bool:
    return Path(f"/proc/{process}").exists()


@pytest.fixture(scope="module")
def child():
    with supervised_decoder(LIMITS) as decode:
        yield decode


def decoder_that_obeys(timeout_s: float):
    return supervised_decoder(
        LIMITS, size=32, timeout_s=timeout_s, memory_bytes=256 * MIB, function="hostile_decoders:obedient"
    )


@pytest.fixture(scope="module")
def obedient():
    with decoder_that_obeys(timeout_s=60) as decode:
        yield decode


def test_pixels_are_those_of_this_process(child):
    pixels = child(picture())
    assert np.array_equal(pixels, decode_image(picture(), LIMITS))
    pixels[:] = 0  # the caller's own, as decode_image's are


@pytest.mark.parametrize(
    "data", [b"", b"<html>", picture()[:-30], picture(side=4), picture(side=16_002), b"\xff\xd8\xff" * 9]
)
def test_reasons_are_those_of_this_process(child, data):
    with pytest.raises(ImageError) as here:
        decode_image(data, LIMITS)
    there = refusal(child, data)
    assert (there.reason, there.detail) == (here.value.reason, here.value.detail)


@pytest.mark.parametrize(
    ("deed", "detail"),
    [
        (b"segfault", "the decoder died of SIGSEGV"),
        (b"abort", "the decoder died of SIGABRT"),
        (b"hoard", "more than 256 MiB of memory wanted"),
        (b"raise", "it ended with status 1"),
        (b"exit", "it ended with status 0"),
        (b"forge", ""),
        (b"small", ""),
    ],
)
def test_a_picture_that_ends_the_decoder_costs_only_itself(obedient, deed, detail):
    error = refusal(obedient, deed)
    assert error.reason == CRASH
    assert detail in error.detail
    assert obedient(picture("blue"))[8, 16].tolist() == [0, 0, 255]


def test_a_picture_that_takes_for_ever_costs_only_itself():
    with decoder_that_obeys(timeout_s=5) as decode:
        error = refusal(decode, b"hang")
        assert (error.reason, error.detail) == (CRASH, "no answer within 5 s")
        assert decode(picture("blue"))[8, 16].tolist() == [0, 0, 255]


def test_what_a_library_prints_is_no_answer(obedient):
    assert refusal(obedient, b"babble").reason == "not_an_image"


def test_a_picture_that_needs_more_memory_than_is_allowed():
    with supervised_decoder(LIMITS, memory_bytes=8 * MIB) as decode:
        error = refusal(decode, picture(side=4000))
        assert (error.reason, error.detail) == (CRASH, "more than 8 MiB of memory wanted")
        assert decode(picture()).shape == (224, 224, 3)


def test_the_largest_picture_within_the_limits_fits_by_default():
    """As 32-bit TIFF, which takes most memory a pixel."""
    out = io.BytesIO()
    Image.fromarray(np.zeros((2000, 2000), np.float32)).save(out, "TIFF")
    with supervised_decoder(DecodeLimits(max_pixels=4_000_000)) as decode:
        assert decode(out.getvalue()).shape == (224, 224, 3)


def test_one_process_serves_until_it_is_ended_and_none_stays_behind():
    with supervised_decoder(LIMITS, function="hostile_decoders:whose") as decode:
        first, second = process_of(decode(b"1")), process_of(decode(b"2"))
        assert first == second != os.getpid()
        assert refusal(decode, b"die").reason == CRASH
        third = process_of(decode(b"3"))
        assert third != first
    assert not is_alive(first)
    assert not is_alive(third)


def test_no_process_is_started_where_there_is_no_picture():
    children = Path(f"/proc/self/task/{os.getpid()}/children")
    before = children.read_text()
    with supervised_decoder(LIMITS):
        assert children.read_text() == before


def test_threads_get_their_own_pictures(obedient):
    values = range(0, 256, 8)
    with ThreadPoolExecutor(4) as pool:
        pixels = list(pool.map(lambda value: obedient(picture(f"rgb({value},0,0)")), values))
    assert [int(p[16, 16, 0]) for p in pixels] == list(values)


def test_a_child_that_cannot_start_is_no_pictures_fault():
    with supervised_decoder(LIMITS, function="nowhere:nothing") as decode, pytest.raises(SamestyleError) as caught:
        decode(picture())
    assert not isinstance(caught.value, ImageError)
    assert "ended with status 1 before its first picture" in str(caught.value)


CALLER = """
import sys
sys.path[:0] = sys.argv[1:]
from samestyle.catalogue.decoder import supervised_decoder
from samestyle.catalogue.images import DecodeLimits
with supervised_decoder(DecodeLimits(), function="hostile_decoders:shipped") as decode:
    print(decode(sys.stdin.buffer.read()).shape)
"""


def test_the_child_finds_code_that_is_shipped_as_a_zip(tmp_path):
    """Only the caller's own path names the zip, as in an executor that got it by --py-files."""
    archive = tmp_path / "code.zip"
    with zipfile.ZipFile(archive, "w") as code:
        for file in [*(ROOT / "samestyle").glob("*.py"), *(ROOT / "samestyle" / "catalogue").glob("*.py")]:
            code.write(file, file.relative_to(ROOT))
    command = [sys.executable, "-c", CALLER, str(archive), str(Path(__file__).parent)]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    ended = subprocess.run(command, input=picture(), cwd=tmp_path, env=environment, capture_output=True)
    assert ended.stdout.decode() == "(224, 224, 3)\n", ended.stderr.decode()
