"""A contact sheet of the demo catalogue: photos in rows, each with its title and price."""

from pathlib import Path

import pyarrow.parquet as pq
import skia

from .catalogue import DemoCatalogue
from .patterns import argb, fill, line
from .photo import typeface
from .seeds import stream

COLUMNS, CELL, PICTURE, MARGIN = 10, 210, 180, 15


def write_sheet(demo: DemoCatalogue, target: Path, count: int = 100) -> None:
    """Write a PNG of `count` offers, picked at random but always the same; what cannot be decoded is named."""
    rows = pq.read_table(demo.path).to_pylist()
    picked = stream("sheet", len(rows)).permutation(len(rows))[:count]
    height = CELL + 50
    surface = skia.Surface(COLUMNS * CELL + MARGIN, -(-len(picked) // COLUMNS) * height + MARGIN)
    canvas = surface.getCanvas()
    canvas.clear(argb(0xF1F1F3))
    for place, index in enumerate(picked):
        canvas.save()
        canvas.translate(MARGIN + place % COLUMNS * CELL, MARGIN + place // COLUMNS * height)
        _cell(canvas, rows[int(index)], demo.image_root)
        canvas.restore()
    surface.makeImageSnapshot().save(str(target), skia.kPNG)


def _cell(canvas: skia.Canvas, row: dict[str, object], root: Path) -> None:
    frame = skia.Rect.MakeWH(CELL - MARGIN, CELL + 38)
    canvas.drawRoundRect(frame, 8, 8, fill(0xFFFFFF))
    picture = _picture(root / str(row["image_uri"]))
    if picture:
        size = PICTURE / max(picture.width(), picture.height())
        wide, high = picture.width() * size, picture.height() * size
        place = skia.Rect.MakeXYWH((CELL - MARGIN - wide) / 2, 8 + (PICTURE - high) / 2, wide, high)
        canvas.drawImageRect(picture, place, skia.SamplingOptions(skia.FilterMode.kLinear, skia.MipmapMode.kLinear))
    else:
        canvas.drawString("no picture", 60, 95, skia.Font(typeface(), 12), fill(0x999999))
    words = f"{row['title'] or '(no title)'}  €{row['price']:.2f}"
    font = skia.Font(typeface(), 9.5)
    for number, text in enumerate(_wrapped(words, font, CELL - 2 * MARGIN)[:3]):
        canvas.drawString(text, 8, PICTURE + 24 + number * 14, font, fill(0x333338))
    canvas.drawRoundRect(frame, 8, 8, line(0xDDDDE2, 1))


def _picture(path: Path) -> skia.Image | None:
    try:
        found = skia.Image.MakeFromEncoded(skia.Data.MakeWithCopy(path.read_bytes()))
    except OSError:
        return None
    return found.makeRasterImage() if found and max(found.width(), found.height()) < 4000 else None


def _wrapped(text: str, font: skia.Font, width: float) -> list[str]:
    lines = [""]
    for word in text.split(" "):
        if lines[-1] and font.measureText(f"{lines[-1]} {word}") > width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return lines
