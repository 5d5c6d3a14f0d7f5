import io
import struct
import threading
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from samestyle.catalogue.images import DecodeLimits, decode_image, image_digest
from samestyle.errors import ImageError

LIMITS = DecodeLimits()
DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
RED, GREEN, BLUE, WHITE, BLACK = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0)
ORIENTATION = 0x0112
DAMAGED_EXIF = b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"\x01\x12\0\x03\xff\xff\xff\xff" * 4


def saved(picture: Image.Image, kind: str, **options) -> bytes:
    out = io.BytesIO()
    picture.save(out, kind, **options)
    return out.getvalue()


def scene(width: int = 300, height: int = 200) -> Image.Image:
    """Smooth colours with some structure, so that a wrong picture cannot pass for the right one."""
    noise = np.random.default_rng(7).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


def corners() -> Image.Image:
    """A square with a red top left, green top right, blue bottom left and black bottom right quarter."""
    picture = Image.new("RGB", (64, 64), BLACK)
    for colour, place in ((RED, (0, 0)), (GREEN, (32, 0)), (BLUE, (0, 32))):
        picture.paste(colour, (*place, place[0] + 32, place[1] + 32))
    return picture


def colours_of(pixels: np.ndarray) -> list[tuple[int, ...]]:
    """Colours in the middle of the four quarters, row by row, each channel rounded to 0 or 255."""
    return [tuple(int(v) for v in (pixels[y, x] > 127) * 255) for y in (56, 168) for x in (56, 168)]


def exact(data: bytes) -> np.ndarray:
    """The slow way: every pixel decoded, bicubic, in a white square."""
    picture = Image.open(io.BytesIO(data)).convert("RGB")
    scale = 224 / max(picture.size)
    small = picture.resize([round(side * scale) for side in picture.size], Image.Resampling.BICUBIC)
    canvas = Image.new("RGB", (224, 224), "white")
    canvas.paste(small, ((224 - small.width) // 2, (224 - small.height) // 2))
    return np.asarray(canvas)


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    error = np.mean((one.astype(np.float64) - other) ** 2)
    return float(10 * np.log10(255**2 / max(error, 1e-9)))


def refusal(data: bytes, limits: DecodeLimits = LIMITS) -> ImageError:
    with pytest.raises(ImageError) as caught:
        decode_image(data, limits)
    assert len(caught.value.detail) <= 200
    assert not caught.value.transient
    return caught.value


def png_header(width: int, height: int) -> bytes:
    """A PNG that says it is huge, in 69 bytes."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress(b"\0" * 100))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + pixels + chunk(b"IEND", b"")


FORMATS = {
    "jpeg": lambda: saved(scene(), "JPEG", quality=90),
    "progressive jpeg": lambda: saved(scene(), "JPEG", quality=90, progressive=True),
    "jpeg of two pictures": lambda: saved(scene(), "MPO", save_all=True, append_images=[corners()]),
    "png": lambda: saved(scene(), "PNG"),
    "animated png": lambda: saved(scene(), "PNG", save_all=True, append_images=[scene().rotate(180)]),
    "gif": lambda: saved(scene(), "GIF"),
    "animated gif": lambda: saved(scene(), "GIF", save_all=True, append_images=[scene().rotate(180)]),
    "webp": lambda: saved(scene(), "WEBP", quality=90),
    "animated webp": lambda: saved(scene(), "WEBP", save_all=True, append_images=[scene().rotate(180)]),
    "bmp": lambda: saved(scene(), "BMP"),
    "tiff": lambda: saved(scene(), "TIFF"),
    "lzw tiff": lambda: saved(scene(), "TIFF", compression="tiff_lzw"),
    "palette png": lambda: saved(scene().quantize(256), "PNG"),
    "cmyk jpeg": lambda: saved(scene().convert("CMYK"), "JPEG", quality=90),
    "rgba png": lambda: saved(scene().convert("RGBA"), "PNG"),
}


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_shows_the_same_first_picture(kind):
    pixels = decode_image(FORMATS[kind](), LIMITS)
    assert pixels.shape == (224, 224, 3)
    assert pixels.dtype == np.uint8
    assert pixels.flags.c_contiguous
    assert psnr(pixels, exact(saved(scene(), "PNG"))) > 28  # GIF and palettes have few colours


@pytest.mark.parametrize("kind", ["L", "1", "LA", "I;16", "I", "F"])
def test_greys_become_equal_channels_from_black_to_white(kind):
    ramp = np.tile(np.linspace(0, 255, 224, dtype=np.uint8), (224, 1))
    grey = Image.fromarray(ramp)
    wide = {"I;16": np.uint16, "I": np.int32, "F": np.float32}
    picture = Image.fromarray(ramp.astype(wide[kind]) * 257) if kind in wide else grey.convert(kind)
    pixels = decode_image(saved(picture, "TIFF" if kind in ("I", "F") else "PNG"), LIMITS)
    assert (pixels[..., :1] == pixels).all()
    assert pixels[:, :8].mean() < 12
    assert pixels[:, -8:].mean() > 243
    assert abs(pixels.mean() - 127.5) < 3


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_transparent_is_white_whatever_colour_hides_beneath(kind):
    picture = Image.new("RGBA", (100, 100), (255, 0, 0, 0))
    picture.paste((0, 0, 255, 255), (0, 0, 50, 100))
    pixels = decode_image(saved(picture, kind, **({"lossless": True} if kind == "WEBP" else {})), LIMITS)
    assert colours_of(pixels) == [BLUE, WHITE, BLUE, WHITE]
    assert pixels[:, 120:].min() > 250


def test_half_transparent_black_is_grey():
    pixels = decode_image(saved(Image.new("RGBA", (900, 900), (0, 0, 0, 128)), "PNG"), LIMITS)
    assert abs(int(pixels.min()) - 127) <= 1
    assert abs(int(pixels.max()) - 127) <= 1


def test_palette_with_a_transparent_entry():
    picture = Image.new("P", (64, 64), 0)
    picture.putpalette([*RED, *BLUE])
    picture.paste(1, (0, 0, 32, 64))
    pixels = decode_image(saved(picture, "PNG", transparency=0), LIMITS)
    assert colours_of(pixels) == [BLUE, WHITE, BLUE, WHITE]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_puts_red_top_left(kind, orientation):
    """Each value says how a viewer must turn the stored picture; we store it turned the other way."""
    undone = {
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }[orientation]
    stored = corners() if undone is None else corners().transpose(undone)
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    data = saved(stored, kind, exif=exif)
    assert colours_of(decode_image(data, LIMITS)) == [RED, GREEN, BLUE, BLACK]


def test_a_turned_picture_is_padded_on_the_other_sides():
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    pixels = decode_image(saved(Image.new("RGB", (200, 100), BLACK), "JPEG", exif=exif), LIMITS)
    assert pixels[:, :50].min() == 255
    assert pixels[:, -50:].min() == 255
    assert pixels[:, 60:160].max() < 10


def test_damaged_exif_does_not_cost_the_picture():
    pixels = decode_image(saved(scene(), "JPEG", exif=DAMAGED_EXIF, quality=90), LIMITS)
    assert psnr(pixels, exact(saved(scene(), "PNG"))) > 35


@pytest.mark.parametrize(("width", "height"), [(64, 64), (20, 10), (224, 224), (300, 100), (1000, 1500)])
def test_scaled_to_the_longest_side_in_a_white_square(width, height):
    pixels = decode_image(saved(Image.new("RGB", (width, height), BLACK), "PNG"), LIMITS)
    dark = (pixels < 128).all(axis=2)
    assert dark.sum(axis=0).max() == round(224 * height / max(width, height))
    assert dark.sum(axis=1).max() == round(224 * width / max(width, height))
    assert set(np.unique(pixels)) <= {0, 255}


def test_extreme_shape_leaves_a_line():
    pixels = decode_image(saved(Image.new("RGB", (15_000, 8), BLACK), "PNG"), LIMITS)
    assert (pixels < 128).all(axis=2).sum() == 224


def test_other_sizes_of_the_square():
    assert decode_image(saved(scene(), "JPEG"), LIMITS, size=160).shape == (160, 160, 3)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_fine_detail_is_averaged_and_not_sampled(kind):
    """One-pixel stripes, seen from afar, are an even grey: no moiré."""
    stripes = np.zeros((1500, 1500, 3), np.uint8)
    stripes[:, ::2] = 255
    pixels = decode_image(saved(Image.fromarray(stripes), kind, quality=95), LIMITS)
    assert pixels.min() > 118
    assert pixels.max() < 138


@pytest.fixture(scope="module")
def sheet() -> Image.Image:
    """Real photos side by side: more fine detail than one photo of that size."""
    parquet = pytest.importorskip("pyarrow.parquet")
    path = DATA / "grocery_store.parquet"
    if not path.exists():
        pytest.skip(f"no {path}")
    photos = parquet.read_table(path, columns=["image"])["image"].to_pylist()[:90:10]
    sheet = Image.new("RGB", (576, 576))
    for place, photo in enumerate(photos):
        sheet.paste(Image.open(io.BytesIO(photo)), (place % 3 * 192, place // 3 * 192))
    return sheet


@pytest.mark.parametrize("side", [100, 230, 440, 600, 1300])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_photos_are_close_to_exact_scaling(sheet, kind, side):
    data = saved(sheet.resize((side, side), Image.Resampling.BICUBIC), kind, quality=90)
    assert psnr(decode_image(data, LIMITS), exact(data)) > 32


@pytest.mark.parametrize(
    ("data", "reason", "detail"),
    [
        (b"", "empty_body", "0 bytes"),
        (b"<!DOCTYPE html><html><body>404</body></html>", "not_an_image", "an HTML page"),
        (b"\n <HTML>\xff\xfe", "not_an_image", "an HTML page"),
        (b"<?xml version='1.0'?><svg xmlns='x'/>", "not_an_image", "SVG"),
        (b"<?xml version='1.0'?><Error/>", "not_an_image", "XML"),
        (b'{"error": "gone"}', "not_an_image", "JSON"),
        (b"%PDF-1.7", "not_an_image", "PDF"),
        (b"\0\0\0\x20ftypavif", "not_an_image", "AVIF"),
        (b"no such picture", "not_an_image", "text"),
        (bytes(range(200, 220)), "not_an_image", "0xc8c9cacb"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "not_an_image", "text"),
        (b"\xff\xd8\xff", "broken", ""),
        (png_header(20_000, 20_000), "too_large", "20000 x 20000 pixels, at most 16000"),
        (png_header(10_000, 9_000), "too_large", "90000000 pixels, at most 50000000"),
        (saved(Image.new("RGB", (1, 1)), "GIF"), "too_small", "1 x 1 pixels, at least 8"),
        (saved(Image.new("RGB", (500, 7)), "JPEG"), "too_small", "500 x 7 pixels, at least 8"),
    ],
)
def test_reasons(data, reason, detail):
    error = refusal(data)
    assert (error.reason, detail in error.detail) == (reason, True), error


def test_webp_with_a_huge_canvas_is_refused():
    side = (16_383 - 1).to_bytes(3, "little")
    body = b"WEBPVP8X" + struct.pack("<I", 10) + b"\x10\0\0\0" + side + side
    assert refusal(b"RIFF" + struct.pack("<I", len(body)) + body).reason == "too_large"


def test_limits_are_the_callers():
    data = saved(scene(), "JPEG")
    assert refusal(data, DecodeLimits(max_side=299)).reason == "too_large"
    assert refusal(data, DecodeLimits(max_pixels=59_999)).reason == "too_large"
    assert refusal(data, DecodeLimits(min_side=201)).reason == "too_small"
    assert decode_image(data, DecodeLimits(60_000, 300, 200)).shape == (224, 224, 3)


def test_limits_above_and_below_those_of_pillow(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    assert decode_image(saved(scene(), "PNG"), LIMITS).shape == (224, 224, 3)
    assert Image.MAX_IMAGE_PIXELS == 1000


@pytest.mark.parametrize("kind", ["jpeg", "progressive jpeg", "png", "gif", "webp", "bmp", "tiff"])
@pytest.mark.parametrize("part", [0.3, 0.6, 0.95])
def test_cut_pictures_are_errors_and_not_half_grey(kind, part):
    whole = FORMATS[kind]()
    assert refusal(whole[: int(len(whole) * part)]).reason == "truncated"


@pytest.mark.parametrize("turns", [300, pytest.param(20_000, marks=pytest.mark.soak)])
def test_fuzz_gives_an_array_or_an_image_error(turns):
    random = np.random.default_rng(20)
    originals = [make() for make in FORMATS.values()]
    outcomes = {"array": 0}
    for turn in range(turns):
        data = bytearray(originals[turn % len(originals)])
        if turn % 3 == 0:
            data = data[: random.integers(1, len(data))]
        for place in random.integers(0, min(len(data), 4000), random.integers(1, 8)):
            data[place] ^= 1 << random.integers(0, 8)
        try:
            pixels = decode_image(bytes(data), LIMITS)
        except ImageError as error:
            outcomes[error.reason] = outcomes.get(error.reason, 0) + 1
        else:
            assert (pixels.shape, pixels.dtype) == ((224, 224, 3), np.uint8)
            outcomes["array"] += 1
    assert min(outcomes[kind] for kind in ("array", "broken", "truncated")) > 10, outcomes


def test_no_warnings_leave_and_filters_stay():
    data = saved(scene(), "JPEG", exif=DAMAGED_EXIF)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        Image.open(io.BytesIO(data)).getexif().get(ORIENTATION)
        assert seen, "this picture was meant to make Pillow warn"
        seen.clear()
        before = list(warnings.filters)
        decode_image(data, LIMITS)
        assert seen == []
        assert list(warnings.filters) == before


def test_filters_stay_when_threads_overlap():
    before = list(warnings.filters)
    data = saved(scene(), "JPEG")
    threads = [threading.Thread(target=lambda: [decode_image(data, LIMITS) for _ in range(20)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(warnings.filters) == before


def test_digest_is_sha256():
    assert image_digest(b"abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
