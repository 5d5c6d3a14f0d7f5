"""Writes an encoder to a folder: python -m samestyle.encoder.export FOLDER"""

import argparse
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from samestyle.encoder.card import Card, Part, Quality, TrainingSet
from samestyle.encoder.files import KINDS, EncoderFiles
from samestyle.encoder.folders import write_encoder
from samestyle.encoder.graph_files import write_fusion_graph, write_image_graph, write_text_graph
from samestyle.encoder.graphs import Graph, torch_run
from samestyle.encoder.joins import Concatenation, CrossAttention, Join
from samestyle.encoder.preprocessing import load_tokenizer
from samestyle.encoder.runtime import Encoder
from samestyle.encoder.sources import STARTER, Sources, default_kind
from samestyle.encoder.transform import Transform, from_bytes, metadata
from samestyle.errors import IntegrityError, SamestyleError, UsageError

if TYPE_CHECKING:
    import torch

    from samestyle.encoder.backbones import Half
    from samestyle.encoder.fusion import Fusion

IMAGE_SIZE, MAX_TOKENS = 224, 64
BACKBONES = (
    Part("image.onnx", "EfficientNet-Lite2 (ImageNet), pooled at three depths: 2,224 features", "Apache-2.0"),
    Part("text.onnx, tokenizer.json", "all-MiniLM-L6-v2, mean of the tokens: 384 features", "Apache-2.0"),
    Part("projection in both", "principal components, half-whitened, of unit length", "Apache-2.0"),
)
FUSION = Part("fusion.onnx, fusion.safetensors", "Transformer over the tokens of both sides", "Apache-2.0")


def export_late_fusion(folder: Path, image_size: int = IMAGE_SIZE, sources: Sources | None = None) -> str:
    """Write the encoder `late_fusion` to `folder` and return its encoder_id; see `write_encoder`.

    Raises UsageError where the packaged weights are not installed, or `folder` holds something else.
    """
    sources = sources or Sources.find()

    def write(fresh: Path) -> Encoder:
        modules = late_fusion_modules(sources, image_size)
        write_image_graph(modules["image"], image_size, fresh / "image.onnx")
        write_text_graph(modules["text"], fresh / "text.onnx")
        load_tokenizer(sources.tokenizer, MAX_TOKENS).save(str(fresh / "tokenizer.json"))
        return torch_encoder(sources, modules, image_size)

    identity = base_identity("late_fusion", sources, image_size)
    card = Card(identity, BACKBONES, projection_sets(sources))
    return write_encoder(folder, card, {"fitted_on": fitted_on(sources)}, write)


def export_unified(
    folder: Path,
    fusion: "Fusion",
    about: Mapping[str, Any],
    modules: "dict[str, Half] | None" = None,
    sources: Sources | None = None,
    image_size: int = IMAGE_SIZE,
) -> str:
    """Write an encoder of kind `unified` to `folder` and return its encoder_id; see `write_encoder`.

    about: JSON that goes into encoder.json and, by the names training, training_digest, settings and quality, into
    the card (see `trained_card`). modules: trained backbones `image` and `text`; else those of `sources`, whose
    projection may be fitted on other data. The fusion is rounded to fp16.

    Raises UsageError as `export_late_fusion`, IntegrityError where fusion and backbones do not fit each other.
    """
    from samestyle.encoder.weights import rounded, save_fusion, tensors_digest

    sources, fusion = sources or Sources.find(), rounded(fusion)

    def write(fresh: Path) -> Encoder:
        sides = modules or late_fusion_modules(sources, image_size)
        check_fits(fusion, {name: _widths(side) for name, side in sides.items()})
        tokens = with_tokens(sides)
        write_image_graph(tokens["image"], image_size, fresh / "image.onnx", tokens=True)
        write_text_graph(tokens["text"], fresh / "text.onnx", tokens=True)
        load_tokenizer(sources.tokenizer, MAX_TOKENS).save(str(fresh / "tokenizer.json"))
        save_fusion(fusion, fresh / "fusion.safetensors", about)
        write_fusion_graph(fusion, fresh / "fusion.onnx")
        return torch_encoder(sources, sides, image_size, fusion)

    identity = base_identity("unified", sources, image_size) | fusion_identity(fusion)
    if modules:
        trained = {side: tensors_digest([module]) for side, module in modules.items()}
        identity["sources"] = trained | {"tokenizer": sources.digests()["tokenizer"]}
    card = trained_card(identity, projection_sets(sources), about)
    return write_encoder(folder, card, {"fitted_on": fitted_on(sources)} | dict(about), write)


def export_trained(folder: Path, base: Path, fusion: "Fusion", about: Mapping[str, Any]) -> str:
    """Write the encoder in `base`, of kind `unified`, with another fusion; its other graphs are copied.

    Raises UsageError where `base` is of another kind, IntegrityError where it is damaged or does not fit the fusion.
    """
    from samestyle.encoder.weights import rounded, save_fusion

    files, fusion = EncoderFiles.open(base), rounded(fusion)
    if files.kind != "unified":
        raise UsageError(f"{base} holds an encoder of kind {files.kind}, expected unified: a fusion needs its tokens")

    def write(fresh: Path) -> Encoder:
        for name in ("image.onnx", "text.onnx", "tokenizer.json"):
            shutil.copyfile(files.path(name), fresh / name)
        image, text = (Graph.load(fresh / name) for name in ("image.onnx", "text.onnx"))
        check_fits(fusion, {"image": (image.dim, image.token_width), "text": (text.dim, text.token_width)})
        save_fusion(fusion, fresh / "fusion.safetensors", about)
        write_fusion_graph(fusion, fresh / "fusion.onnx")
        settings = files.manifest["identity"]["preprocessing"]
        tokenizer = load_tokenizer(fresh / "tokenizer.json", settings["text"]["max_tokens"])
        return Encoder("torch", image, text, torch_join(fusion), tokenizer, settings["image"]["size"])

    identity = files.manifest["identity"] | fusion_identity(fusion)
    projected = files.manifest.get("fitted_on", "")
    card = trained_card(identity, sets_of(projected), about)
    return write_encoder(folder, card, {"fitted_on": projected, "base": files.encoder_id} | dict(about), write)


def trained_card(identity: dict[str, Any], projected: Sequence[TrainingSet], about: Mapping[str, Any]) -> Card:
    """about: training, a list of {name, licence, used}; training_digest; settings; quality, a list of {name,
    protocol, metrics}; each may be missing.
    """
    training = [*projected, *(TrainingSet(**entry) for entry in about.get("training", ()))]
    quality = [Quality(**entry) for entry in about.get("quality", ())]
    digest, settings = about.get("training_digest"), about.get("settings", {})
    return Card(identity, (*BACKBONES, FUSION), training, digest, settings, quality)


def torch_encoder(
    sources: Sources, modules: "dict[str, Half]", image_size: int = IMAGE_SIZE, fusion: "Fusion | None" = None
) -> Encoder:
    """The same encoder on torch, without encoder_id: what the exported graphs are compared with."""
    dims = {side: _widths(module) if fusion else _widths(module)[:1] for side, module in modules.items()}
    runs = with_tokens(modules) if fusion else modules
    image, text = (Graph(torch_run(runs[side]), *dims[side]) for side in ("image", "text"))
    join: Join = torch_join(fusion) if fusion else Concatenation(image.dim + text.dim)
    return Encoder("torch", image, text, join, load_tokenizer(sources.tokenizer, MAX_TOKENS), image_size)


def torch_join(fusion: "Fusion") -> Join:
    return CrossAttention(Graph(torch_run(fusion), fusion.shape.dim))


def late_fusion_modules(sources: Sources, image_size: int = IMAGE_SIZE) -> "dict[str, Half]":
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


def with_tokens(modules: "dict[str, Half]") -> "dict[str, torch.nn.Module]":
    from samestyle.encoder.backbones import HalfAndTokens

    return {side: HalfAndTokens(module).eval() for side, module in modules.items()}


def base_identity(kind: str, sources: Sources, image_size: int) -> dict[str, Any]:
    """What decides the vectors of an encoder over the packaged backbones, but for a fusion."""
    return {
        "kind": kind,
        "architecture": 1,  # raise it when code here, in backbones.py or fusion.py changes what the same weights give
        "dim": sum(len(part.scales) for part in from_bytes(sources.transform.read_bytes()).values()),
        "preprocessing": {
            "image": {"size": image_size, "fit": "pad", "background": "white", "channels": "RGB"},
            "text": {"max_tokens": MAX_TOKENS},
        },
        "sources": sources.digests(),
    }


def fusion_identity(fusion: "Fusion") -> dict[str, Any]:
    from samestyle.encoder.weights import tensors_digest

    return {"dim": fusion.shape.dim, "fusion": fusion.shape.to_dict() | {"weights": tensors_digest([fusion])}}


def check_fits(fusion: "Fusion", widths: Mapping[str, tuple[int, int]]) -> None:
    """widths: of a side's half and of its tokens. Raises IntegrityError where the fusion takes others."""
    shape = fusion.shape
    wanted = {"image": (shape.image_half, shape.image_width), "text": (shape.text_half, shape.text_width)}
    for side, found in widths.items():
        if found != wanted[side]:
            raise IntegrityError(
                f"the fusion takes {wanted[side][0]} numbers and tokens of {wanted[side][1]} from the {side} side, "
                f"which gives {found[0]} and {found[1]}: train a fusion over these backbones"
            )


def fitted_on(sources: Sources) -> str:
    return metadata(sources.transform.read_bytes()).get("fitted_on", "not recorded")


def projection_sets(sources: Sources) -> list[TrainingSet]:
    return sets_of(fitted_on(sources))


def sets_of(fitted: str) -> list[TrainingSet]:
    """What the projection was fitted on, `name (licence): how much; ...` as samestyle.training.projection notes it."""
    found = (re.fullmatch(r"(.+?) \((.+)\): (.+)", part) for part in fitted.split("; "))
    return [TrainingSet(match[1], match[2], f"projection: {match[3]}") for match in found if match]


def _widths(module: "Half") -> tuple[int, int]:
    features: Any = module.features
    tokens = getattr(features, "token_width", None) or features.network.config.hidden_size
    return module.projection.out_features, int(tokens)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m samestyle.encoder.export", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kind", choices=tuple(KINDS), default=default_kind(), help="default: %(default)s")
    parser.add_argument("--image-size", type=int, default=IMAGE_SIZE, help="pixels a side (default: %(default)s)")
    parser.add_argument("--fusion", type=Path, metavar="FILE", help="of kind unified: fusion.safetensors of a training")
    parser.add_argument("--checkpoint", type=Path, metavar="DIR", help="of kind dual_stream: a CLIP, SigLIP or ALIGN")
    parser.add_argument("--head", type=Path, metavar="FILE", help="of kind dual_stream: a trained head.safetensors")
    arguments = parser.parse_args()
    try:
        encoder_id = export(arguments)
    except SamestyleError as error:
        parser.exit(error.exit_code, f"{error}\n")
    print(f"encoder {encoder_id} ({arguments.kind}) is in {arguments.folder}")


def export(arguments: argparse.Namespace) -> str:
    if arguments.kind == "late_fusion":
        return export_late_fusion(arguments.folder, arguments.image_size)
    if arguments.kind == "unified":
        from samestyle.encoder.weights import load_fusion

        fusion, about = load_fusion(arguments.fusion or STARTER)
        return export_unified(arguments.folder, fusion, about, image_size=arguments.image_size)
    from samestyle.encoder.dual_stream import export_dual_stream

    if arguments.checkpoint is None:
        raise UsageError("kind dual_stream needs --checkpoint DIR, a local folder with a CLIP, SigLIP or ALIGN model")
    return export_dual_stream(arguments.folder, arguments.checkpoint, arguments.head)


if __name__ == "__main__":
    main()
