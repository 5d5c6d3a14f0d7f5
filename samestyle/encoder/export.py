"""Writes the encoder `late_fusion` to a folder: python -m samestyle.encoder.export FOLDER"""

import argparse
import json
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from samestyle.catalogue.images import DecodeLimits, decode_image
from samestyle.encoder.files import MANIFEST, EncoderFiles, identity_digest, write_manifest
from samestyle.encoder.preprocessing import load_tokenizer
from samestyle.encoder.runtime import VIEWS, Encoder, Graph
from samestyle.encoder.sources import Sources
from samestyle.encoder.transform import Transform, from_bytes, metadata
from samestyle.errors import SamestyleError, UsageError

if TYPE_CHECKING:
    import torch

    from samestyle.encoder.backbones import Half

KIND = "late_fusion"
IMAGE_SIZE, MAX_TOKENS = 224, 64
GOLDEN_TITLES = (
    "Stoneware mug, 350 ml, sea green",
    "Desk lamp with adjustable arm",
    "Sac à dos étanche 20 L pour la randonnée",
    "x",
)

CARD = """# Encoder {encoder_id} (late_fusion)

Turns a product's photo and title into an image, a text and a fused vector: {dim} floats, length 1, one space.
Nothing in it was trained by this project: two frozen networks, and a projection fitted without labels.

| part | what | licence |
| --- | --- | --- |
| image.onnx | EfficientNet-Lite0 (ImageNet), pooled at three depths: 2,144 features | Apache-2.0 |
| text.onnx, tokenizer.json | all-MiniLM-L6-v2, mean of the tokens: 384 features | Apache-2.0 |
| projection in both | {half} principal components, half-whitened, of unit length | Apache-2.0 |

Input: photos of {image_size} px, white padding, RGB, uint8; titles of at most {max_tokens} tokens.
A missing photo or title leaves its half zero. Score: cosine.

The projection was fitted on: {fitted_on}.

Not for: telling people apart, or reading text in pictures. Titles and photos are not aligned: a photo finds
the title that describes it no better than chance does.
"""


def export_late_fusion(folder: Path, image_size: int = IMAGE_SIZE) -> str:
    """Write the encoder to `folder` and return its encoder_id.

    Nothing is done where `folder` holds this very encoder, undamaged; another or a damaged one is replaced by
    renaming. The golden vectors come from torch, so that each loading compares the graphs with it.

    Raises UsageError where the packaged weights are not installed, or `folder` holds something else.
    """
    sources = Sources.find()
    identity = _identity(sources, image_size)
    encoder_id = identity_digest(identity)
    if _is_complete(folder, encoder_id):
        return encoder_id
    if folder.exists() and not (folder / MANIFEST).is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} holds something else than an encoder: name an empty or a new folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as scratch:
        fresh = Path(scratch) / "fresh"
        fresh.mkdir()
        _write(fresh, sources, identity)
        if folder.exists():
            folder.rename(Path(scratch) / "former")
        fresh.rename(folder)
    return encoder_id


def write_image_graph(module: "torch.nn.Module", size: int, path: Path) -> None:
    """Write a module over (n, size, size, 3) uint8 as ONNX, n free."""
    import torch

    _write_graph(module, {"images": torch.zeros(2, size, size, 3, dtype=torch.uint8)}, {0: "rows"}, path)


def write_text_graph(module: "torch.nn.Module", path: Path) -> None:
    """Write a module over ids and mask (n, tokens) int64 as ONNX, both sizes free."""
    import torch

    ones = torch.ones(2, 8, dtype=torch.int64)
    _write_graph(module, {"ids": ones, "mask": ones}, {0: "rows", 1: "tokens"}, path)


def torch_encoder(sources: Sources, modules: dict[str, "Half"], image_size: int = IMAGE_SIZE) -> Encoder:
    """The same encoder on torch, without encoder_id: what the exported graphs are compared with."""
    dims = {side: module.projection.out_features for side, module in modules.items()}
    image, text = (Graph(_torch_run(modules[side]), dims[side]) for side in ("image", "text"))
    return Encoder("torch", image, text, load_tokenizer(sources.tokenizer, MAX_TOKENS), image_size)


def late_fusion_modules(sources: Sources, image_size: int = IMAGE_SIZE) -> dict[str, "Half"]:
    """The torch modules behind image.onnx and text.onnx, frozen."""
    import torch

    from samestyle.encoder.backbones import Half, ImageFeatures, TextFeatures

    def half(features: torch.nn.Module, transform: Transform) -> Half:
        return Half(features, *(torch.from_numpy(value.copy()) for value in vars(transform).values()))

    transforms = from_bytes(sources.transform.read_bytes())
    return {
        "image": half(ImageFeatures.load(sources.image_weights, image_size), transforms["image"]),
        "text": half(TextFeatures.load(sources.text_weights.parent), transforms["text"]),
    }


def _torch_run(module: "torch.nn.Module") -> Callable[..., np.ndarray]:
    import torch

    return lambda *arrays: module(*(torch.from_numpy(array) for array in arrays)).numpy()


def _identity(sources: Sources, image_size: int) -> dict[str, Any]:
    return {
        "kind": KIND,
        "architecture": 1,  # raise it when code here or in backbones.py changes what the same weights give
        "dim": sum(len(part.scales) for part in from_bytes(sources.transform.read_bytes()).values()),
        "preprocessing": {
            "image": {"size": image_size, "fit": "pad", "background": "white", "channels": "RGB"},
            "text": {"max_tokens": MAX_TOKENS},
        },
        "sources": sources.digests(),
    }


def _is_complete(folder: Path, encoder_id: str) -> bool:
    try:
        return EncoderFiles.open(folder).encoder_id == encoder_id
    except SamestyleError:
        return False


def _write(folder: Path, sources: Sources, identity: dict[str, Any]) -> None:
    size = identity["preprocessing"]["image"]["size"]
    modules = late_fusion_modules(sources, size)
    write_image_graph(modules["image"], size, folder / "image.onnx")
    write_text_graph(modules["text"], folder / "text.onnx")
    load_tokenizer(Path(sources.tokenizer), MAX_TOKENS).save(str(folder / "tokenizer.json"))
    _write_golden(folder, torch_encoder(sources, modules, size))
    fitted_on = metadata(sources.transform.read_bytes()).get("fitted_on", "not recorded")
    (folder / "card.md").write_text(_card(identity, fitted_on), encoding="utf-8")
    write_manifest(folder, identity, {"views": VIEWS, "metric": "cosine", "fitted_on": fitted_on})
    Encoder.load(folder)


def _write_graph(
    module: "torch.nn.Module", inputs: dict[str, "torch.Tensor"], free: dict[int, str], path: Path
) -> None:
    import torch

    axes = dict.fromkeys(inputs, free) | {"half": {0: "rows"}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # The tracing exporter: as fast and as exact a graph as the newer one here, in a tenth of the time.
        torch.onnx.export(
            module,
            tuple(inputs.values()),
            str(path),
            input_names=list(inputs),
            output_names=["half"],
            dynamic_axes=axes,
            opset_version=17,
            dynamo=False,
        )


def _write_golden(folder: Path, teacher: Encoder) -> None:
    """Record the vectors of `teacher` for both modalities and for one; wide, tall, transparent pictures."""
    (folder / "golden").mkdir()
    names = [f"golden/{number}.png" for number in range(3)]
    for number, name in enumerate(names):
        _drawing(number).save(folder / name)
    queries = [
        *zip(names, GOLDEN_TITLES, strict=False),
        (names[2], None),
        *((None, t) for t in GOLDEN_TITLES[2:]),
    ]
    pictures = [_decoded(folder / name, teacher.image_size) if name else None for name, _ in queries]
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


def _decoded(path: Path, size: int) -> np.ndarray:
    return decode_image(path.read_bytes(), DecodeLimits(), size)


def _drawing(number: int) -> Image.Image:
    """A small picture with flat colour, an edge and a gradient: 96 x 64 RGB, 64 x 96 RGBA, 300 x 300 RGB."""
    width, height = ((96, 64), (64, 96), (300, 300))[number]
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    disc = (x - 0.5) ** 2 + (y - 0.4) ** 2 < 0.09
    stripes = np.sin((3 + 4 * number) * np.pi * (x + number * y)) > 0
    channels = [255 * x, 255 * np.where(disc, y, 1 - 0.3 * stripes), np.where(disc, 60 * (number + 1), 230)]
    if number == 1:
        channels.append(255.0 * (disc | stripes))
    return Image.fromarray(np.stack(channels, axis=2).astype(np.uint8))


def _card(identity: dict[str, Any], fitted_on: str) -> str:
    settings = identity["preprocessing"]
    return CARD.format(
        encoder_id=identity_digest(identity),
        dim=identity["dim"],
        half=identity["dim"] // 2,
        image_size=settings["image"]["size"],
        max_tokens=settings["text"]["max_tokens"],
        fitted_on=fitted_on,
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m samestyle.encoder.export", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--image-size", type=int, default=IMAGE_SIZE, help="pixels a side (default: %(default)s)")
    arguments = parser.parse_args()
    try:
        encoder_id = export_late_fusion(arguments.folder, arguments.image_size)
    except SamestyleError as error:
        parser.exit(error.exit_code, f"{error}\n")
    print(f"encoder {encoder_id} ({KIND}, {arguments.image_size} px) is in {arguments.folder}")


if __name__ == "__main__":
    main()
