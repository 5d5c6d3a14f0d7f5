"""Bytes of a catalogue picture, as found in the wild, to the square RGB array that the encoder gets."""

import hashlib
import io
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import cv2
import numpy as np
from PIL import (
    BmpImagePlugin,
    ExifTags,
    GifImagePlugin,
    Image,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from samestyle.catalogue.titles import normalise_title
from samestyle.errors import ImageError

# Called directly instead of Image.open: no other plugin ever sees the bytes, and Image.open's check of
# the process-wide MAX_IMAGE_PIXELS does not get in the way of the caller's own limits.
_PLUGINS: tuple[tuple[re.Pattern[bytes], Callable[..., Image.Image]], ...] = (
    (re.compile(rb"\xff\xd8\xff"), JpegImagePlugin.jpeg_factory),
    (re.compile(rb"\x89PNG\r\n\x1a\n"), PngImagePlugin.PngImageFile),
    (re.compile(rb"GIF8[79]a"), GifImagePlugin.GifImageFile),
    (re.compile(rb"RIFF.{4}WEBP", re.DOTALL), WebPImagePlugin.WebPImageFile),
    (re.compile(rb"BM"), BmpImagePlugin.BmpImageFile),
    (re.compile(rb"II[*+]\0|MM\0[*+]"), TiffImagePlugin.TiffImageFile),
)

_LOOKS_LIKE = (
    (re.compile(rb"\s*(<!--.*?-->\s*)*(<!doctype html|<html|<head|<body)", re.I | re.S), "an HTML page"),
    (re.compile(rb"\s*(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)*(<!doctype svg[^>]*>\s*)?<svg", re.I | re.S), "SVG"),
    (re.compile(rb"\s*<\?xml", re.I), "XML"),
    (re.compile(rb"\s*[\[{]\s*[\"\[{\]}]"), "JSON"),
    (re.compile(rb"%PDF"), "PDF"),
    (re.compile(rb".{4}ftyp(avif|avis)", re.DOTALL), "AVIF"),
    (re.compile(rb".{4}ftyp(heic|heix|hevc|mif1|msf1)", re.DOTALL), "HEIC"),
    (re.compile(rb"\x1f\x8b"), "gzip"),
    (re.compile(rb"PK\x03\x04"), "ZIP"),
    (re.compile(rb"[\t\r\n\x20-\x7e]*\Z"), "text"),
)

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# Of what people look at: half the bytes of 95, and hard to tell from it.
JPEG_QUALITY = 80


@dataclass(frozen=True)
class DecodeLimits:
    """What a picture's header may say, in pixels.

    Decoding takes 1 to 3 bytes of memory a pixel for most JPEGs, 15 for WebP, at most 25 (32-bit TIFF).
    """

    max_pixels: int = 50_000_000
    max_side: int = 16_000
    min_side: int = 8


def image_digest(data: bytes) -> str:
    """Return the SHA-256 of an image's bytes in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def decode_image(data: bytes, limits: DecodeLimits, size: int = 224) -> np.ndarray:
    """Return the picture in `data` upright in a white square: (size, size, 3) uint8, RGB, values 0..255.

    The format is told by content (JPEG, PNG, GIF, WebP, BMP, TIFF), of an animation the first frame is
    taken, transparency becomes white, and the longest side is scaled to `size`, up as well as down.
    Colour profiles are not applied. Mean and deviation are the encoder's business.

    Raises ImageError with reason
      empty_body    there are no bytes
      not_an_image  none of the formats above; the detail says what it looks like
      truncated     the bytes end before the picture does
      too_large, too_small   by `limits`, read from the header before any pixel is decoded
      broken        anything else that the decoder stumbles over
    """
    plugin = _plugin(data)
    with _pillow_warnings_ignored(), _decoder_errors(data):
        picture = plugin(io.BytesIO(data))
        _check_dimensions(*picture.size, limits)
        return _square(_scaled(picture, size), size)


def to_jpeg(pixels: np.ndarray, size: int | None = None) -> bytes:
    """A JPEG file of (side, side, 3) uint8 RGB, scaled down to `size` pixels a side where it is larger."""
    if size is not None and size < len(pixels):
        pixels = cv2.resize(pixels, (size, size), interpolation=cv2.INTER_AREA)
    return cv2.imencode(".jpg", pixels[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1].tobytes()


def _plugin(data: bytes) -> Callable[..., Image.Image]:
    if not data:
        raise ImageError("empty_body", "0 bytes")
    for magic, plugin in _PLUGINS:
        if magic.match(data):
            return plugin
    start = data[:512]
    looks = next((name for magic, name in _LOOKS_LIKE if magic.match(start)), None)
    raise ImageError("not_an_image", f"looks like {looks}" if looks else f"starts with 0x{data[:8].hex()}")


def _check_dimensions(width: int, height: int, limits: DecodeLimits) -> None:
    if min(width, height) < limits.min_side:
        raise ImageError("too_small", f"{width} x {height} pixels, at least {limits.min_side} a side wanted")
    if max(width, height) > limits.max_side:
        raise ImageError("too_large", f"{width} x {height} pixels, at most {limits.max_side} a side allowed")
    if width * height > limits.max_pixels:
        raise ImageError("too_large", f"{width * height} pixels, at most {limits.max_pixels} allowed")


def _scaled(picture: Image.Image, size: int) -> np.ndarray:
    """Return `picture` upright with its longest side `size`: (height, width, 3) uint8."""
    longest = max(picture.size)
    width, height = (max(1, round(side * size / longest)) for side in picture.size)
    picture.draft(None, (width, height))  # a JPEG is decoded at 1/2, 1/4 or 1/8; other formats ignore it
    picture.load()
    # Only now: a PNG may keep its EXIF behind the pixels, and a TIFF has turned itself while loading.
    turn = _UPRIGHT.get(_orientation(picture))
    small = _flat(_reduced(_eight_bits(picture), width, height))
    interpolation = cv2.INTER_CUBIC if longest < size else cv2.INTER_LINEAR
    pixels = cv2.resize(np.asarray(small), (width, height), interpolation=interpolation)
    return pixels if turn is None else np.asarray(Image.fromarray(pixels).transpose(turn))


def _orientation(picture: Image.Image) -> int:
    try:
        return int(picture.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # damaged metadata raise nearly anything, and the picture is none the worse for it
        return 1


def _eight_bits(picture: Image.Image) -> Image.Image:
    """Return `picture` as RGB, or as RGBA where it has transparency."""
    if picture.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8)).convert("RGB")
    if picture.mode in ("I", "F"):
        return Image.fromarray(_stretched(np.asarray(picture, np.float32))).convert("RGB")
    return picture.convert("RGBA" if picture.has_transparency_data else "RGB")


def _stretched(values: np.ndarray) -> np.ndarray:
    """32-bit samples have no agreed white: the darkest becomes 0 and the brightest 255."""
    finite = np.nan_to_num(values, posinf=0.0, neginf=0.0)
    low, high = float(finite.min()), float(finite.max())
    return ((finite - low) * (255.0 / max(high - low, 1e-12))).astype(np.uint8)


def _reduced(picture: Image.Image, width: int, height: int) -> Image.Image:
    """Average whole blocks of pixels, so that less than a factor of two is left to interpolation."""
    factors = max(1, picture.width // width), max(1, picture.height // height)
    return picture if factors == (1, 1) else picture.reduce(factors)


def _flat(picture: Image.Image) -> Image.Image:
    if picture.mode == "RGB":
        return picture
    return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")


def _square(pixels: np.ndarray, size: int) -> np.ndarray:
    height, width = pixels.shape[:2]
    top, left = (size - height) // 2, (size - width) // 2
    canvas = np.full((size, size, 3), 255, np.uint8)
    canvas[top : top + height, left : left + width] = pixels
    return canvas


@contextmanager
def _decoder_errors(data: bytes) -> Iterator[None]:
    try:
        yield
    except ImageError:
        raise
    except Image.DecompressionBombError as error:
        raise _refusal("too_large", error) from error
    except MemoryError as error:  # the dimensions are bounded, so it is the machine that is short
        raise ImageError("broken", "not enough memory to decode", transient=True) from error
    except Exception as error:  # damaged files raise nearly anything
        cut = "truncat" in str(error).lower() or _is_cut_webp(data)
        raise _refusal("truncated" if cut else "broken", error) from error


def _is_cut_webp(data: bytes) -> bool:
    """Its decoder does not say why it refuses, but the header says how long the file should be."""
    return data.startswith(b"RIFF") and len(data) < 8 + int.from_bytes(data[4:8], "little")


def _refusal(reason: str, error: Exception) -> ImageError:
    return ImageError(reason, normalise_title(f"{type(error).__name__}: {error}", 200) or "")


@contextmanager
def _pillow_warnings_ignored() -> Iterator[None]:
    """Keep remarks about damaged metadata out of the logs.

    warnings.catch_warnings puts back what it found on entering, which loses filters when threads overlap;
    an entry that is added and taken away by itself does not.
    """
    filters = cast(list[Any], warnings.filters)
    entry = ("ignore", None, Warning, re.compile(r"PIL\."), 0)
    filters.insert(0, entry)
    try:
        yield
    finally:
        filters.remove(entry)
