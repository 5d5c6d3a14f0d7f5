"""Golden queries: pictures and titles with their vectors, by which an encoder proves itself whenever it is loaded."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from samestyle.encoder.files import EncoderFiles
from samestyle.errors import IntegrityError

if TYPE_CHECKING:
    from PIL import Image

    from samestyle.encoder.device import DeviceEncoder
    from samestyle.encoder.runtime import Encoder

COSINE = 0.9999
TITLES = (
    "Stoneware mug, 350 ml, sea green",
    "Desk lamp with adjustable arm",
    "Sac à dos étanche 20 L pour la randonnée",
    "x",
)


def check_golden(encoder: "Encoder | DeviceEncoder", files: EncoderFiles, least: float = COSINE) -> None:
    """Encode the golden queries, their pictures from PNG on, and compare with the recorded vectors.

    Raises IntegrityError where a cosine is below `least`.
    """
    golden = json.loads(files.path("golden.json").read_text(encoding="utf-8"))
    images = _decoded([files.path(query["image"]) if query["image"] else None for query in golden], encoder.image_size)
    vectors = encoder.encode([query["title"] for query in golden], images)
    for row, query in enumerate(golden):
        for view, expected in query["vectors"].items():
            cosine = float(vectors[view][row] @ np.asarray(expected, np.float32))
            if not cosine >= least:
                raise IntegrityError(
                    f"golden query {row} of {files.folder}, {view} view: cosine {cosine:.6f} to the recorded "
                    f"vector, expected at least {least}; the libraries here give other vectors than "
                    "the indexes hold: install the pinned requirements, export the encoder again, or, on a GPU, take "
                    "more digits (encoder.precision)"
                )


def write_golden(folder: Path, teacher: "Encoder") -> None:
    """Record the vectors of `teacher` for both modalities and for one; wide, tall, transparent pictures."""
    (folder / "golden").mkdir()
    names = [f"golden/{number}.png" for number in range(3)]
    for number, name in enumerate(names):
        _drawing(number).save(folder / name)
    queries = [*zip(names, TITLES, strict=False), (names[2], None), *((None, title) for title in TITLES[2:])]
    pictures = _decoded([folder / name if name else None for name, _ in queries], teacher.image_size)
    vectors = teacher.encode([title for _, title in queries], pictures)
    golden = [
        {
            "image": name,
            "title": title,
            "vectors": {view: rows[row].tolist() for view, rows in vectors.items() if rows[row].any()},
        }
        for row, (name, title) in enumerate(queries)
    ]
    (folder / "golden.json").write_text(json.dumps(golden, ensure_ascii=False) + "\n", encoding="utf-8")


def _decoded(paths: Sequence[Path | None], size: int) -> list[np.ndarray | None]:
    from samestyle.catalogue.images import DecodeLimits, decode_image

    return [decode_image(path.read_bytes(), DecodeLimits(), size) if path else None for path in paths]


def _drawing(number: int) -> "Image.Image":
    """A small picture with flat colour, an edge and a gradient: 96 x 64 RGB, 64 x 96 RGBA, 300 x 300 RGB."""
    from PIL import Image

    width, height = ((96, 64), (64, 96), (300, 300))[number]
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    disc = (x - 0.5) ** 2 + (y - 0.4) ** 2 < 0.09
    stripes = np.sin((3 + 4 * number) * np.pi * (x + number * y)) > 0
    channels = [255 * x, 255 * np.where(disc, y, 1 - 0.3 * stripes), np.where(disc, 60 * (number + 1), 230)]
    if number == 1:
        channels.append(255.0 * (disc | stripes))
    return Image.fromarray(np.stack(channels, axis=2).astype(np.uint8))
