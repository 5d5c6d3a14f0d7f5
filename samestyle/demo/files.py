"""Photo files as suppliers send them: mostly plain JPEG, some unusual, a few broken."""

import io
import os
from pathlib import Path

import numpy as np
from PIL import Image

from .photo import Photo, draw

HTML = b"<!DOCTYPE html><html><head><title>404 Not Found</title></head><body><h1>Not Found</h1></body></html>\n"
EXIF_ORIENTATION, TURNED_LEFT = 0x0112, 6


def write_photo(photo: Photo, root: Path) -> None:
    """Draw `photo` below `root`. It appears complete or not at all; one that is there is left alone."""
    target = root / photo.uri
    if photo.kind == "missing_file" or target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        temporary.write_bytes(encode(photo))
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def encode(photo: Photo) -> bytes:
    """The bytes of the photo's file, of the sort that `photo.kind` names."""
    match photo.kind:
        case "zero_bytes":
            return b""
        case "html_page":
            return HTML
        case "one_pixel":
            return _saved(Image.new("RGB", (1, 1), (200, 200, 200)), "JPEG")
        case "huge":
            return _saved(Image.new("1", (20_000, 12_000), 1), "PNG", optimize=True)
    return _encoded_picture(photo)


def _encoded_picture(photo: Photo) -> bytes:
    pixels = draw(photo)
    picture = Image.fromarray(pixels)
    quality = photo.supplier.quality
    match photo.kind:
        case "truncated":
            whole = _saved(picture, "JPEG", quality=quality)
            return whole[: len(whole) * 2 // 5]
        case "cmyk":
            return _saved(picture.convert("CMYK"), "JPEG", quality=quality)
        case "rgba_png":
            return _saved(_cut_out(pixels), "PNG")
        case "png_named_jpg":
            return _saved(picture, "PNG")
        case "gif":
            return _saved(picture.quantize(128), "GIF")
        case "exif_rotated":
            exif = Image.Exif()
            exif[EXIF_ORIENTATION] = TURNED_LEFT
            return _saved(picture.transpose(Image.Transpose.ROTATE_90), "JPEG", quality=quality, exif=exif)
    return _saved(picture, "JPEG", quality=quality, progressive=photo.kind == "progressive")


def _cut_out(pixels: np.ndarray) -> Image.Image:
    """White turned into transparency over black, as cut-out tools leave it."""
    opaque = (pixels.min(axis=2) < 250).astype(np.uint8) * 255
    return Image.fromarray(np.dstack([pixels * (opaque[:, :, None] > 0), opaque]))


def _saved(picture: Image.Image, form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, form, **options)
    return buffer.getvalue()
