"""Exports the encoder `dual_stream`: a CLIP, SigLIP or ALIGN checkpoint, joined by a sum or a trained head."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from samestyle.encoder.card import Card, Part, Quality, TrainingSet
from samestyle.encoder.checkpoints import Checkpoint, ImageTower
from samestyle.encoder.files import EncoderFiles
from samestyle.encoder.folders import write_encoder
from samestyle.encoder.graph_files import write_head_graph, write_image_graph, write_text_graph
from samestyle.encoder.graphs import Graph, torch_run
from samestyle.encoder.head import Head, load_head, rounded_head, save_head
from samestyle.encoder.joins import Sum
from samestyle.encoder.preprocessing import load_tokenizer
from samestyle.encoder.runtime import Encoder
from samestyle.encoder.weights import tensors_digest
from samestyle.errors import IntegrityError, UsageError

LICENCE = "that of the checkpoint"


def export_dual_stream(folder: Path, checkpoint: Path, head: Path | None = None) -> str:
    """Write the checkpoint in a local folder as an encoder to `folder` and return its encoder_id; see `write_encoder`.

    head: a trained head.safetensors; without it, the fused vector is the normalised sum. Pictures are padded to a
    white square and scaled as everywhere in this project, where the checkpoint's own processor cuts or stretches them;
    its factors for each pixel are kept, inside image.onnx.

    Raises UsageError for a folder that holds no such checkpoint in safetensors, IntegrityError for a broken one, and
    for a head that does not fit.
    """
    source = Checkpoint.open(checkpoint)
    joiner, about = load_head(head) if head else (None, {})
    dim = source.dim
    if joiner and joiner.dim != dim:
        raise IntegrityError(f"{head} joins vectors of {joiner.dim}, {checkpoint} gives {dim}: train a head over it")

    def write(fresh: Path) -> Encoder:
        model = source.load()
        image, text = ImageTower(model, *source.pixel_statistics()), source.text_tower(model)
        photo = write_image_graph(image, source.image_size, fresh / "image.onnx")
        source.check_sides(photo, write_text_graph(text, fresh / "text.onnx"))
        load_tokenizer(source.tokenizer, source.max_tokens).save(str(fresh / "tokenizer.json"))
        if joiner and head:
            shutil.copyfile(head, fresh / "head.safetensors")
            write_head_graph(joiner, dim, fresh / "head.onnx")
        return _torch_encoder(source, image, text, joiner, dim)

    card = _card(identity_of(source, joiner, dim), checkpoint.name, about)
    return write_encoder(folder, card, {"checkpoint": checkpoint.name} | about, write)


def export_headed(folder: Path, base: Path, head: Head, about: Mapping[str, Any]) -> str:
    """Write the encoder in `base`, of kind `dual_stream`, with another head; its graphs are copied.

    about: as of `export_unified`. The head is rounded to fp16; one whose weights are all zero is the normalised sum,
    and is left out. Raises UsageError where `base` is of another kind, IntegrityError where it is damaged or gives
    vectors of another dimension.
    """
    files = EncoderFiles.open(base)
    identity, name = files.manifest["identity"], str(files.manifest.get("checkpoint", "not recorded"))
    if files.kind != "dual_stream":
        raise UsageError(f"{base} holds an encoder of kind {files.kind}, expected dual_stream: no other takes a head")
    if head.dim != identity["dim"]:
        raise IntegrityError(
            f"the head joins vectors of {head.dim}, {base} gives {identity['dim']}: train a head over it"
        )
    rounded = rounded_head(head)
    joiner = rounded if any(weight.any() for weight in rounded.parameters()) else None

    def write(fresh: Path) -> Encoder:
        for file in ("image.onnx", "text.onnx", "tokenizer.json"):
            shutil.copyfile(files.path(file), fresh / file)
        if joiner:
            save_head(joiner, fresh / "head.safetensors", dict(about))
            write_head_graph(joiner, joiner.dim, fresh / "head.onnx")
        image, text = (Graph.load(fresh / f"{side}.onnx") for side in ("image", "text"))
        settings = identity["preprocessing"]
        tokenizer = load_tokenizer(fresh / "tokenizer.json", settings["text"]["max_tokens"])
        return Encoder("torch", image, text, torch_sum(head.dim, joiner), tokenizer, settings["image"]["size"])

    headed = identity | {"head": head_digest(joiner)}
    facts = {"checkpoint": name, "base": files.encoder_id} | dict(about)
    return write_encoder(folder, _card(headed, name, about), facts, write)


def identity_of(source: Checkpoint, head: Head | None, dim: int) -> dict[str, Any]:
    factor, shift = source.pixel_statistics()
    return {
        "kind": "dual_stream",
        "architecture": 1,  # raise it when code here or in checkpoints.py changes what the same weights give
        "family": source.family,
        "dim": dim,
        "preprocessing": {
            "image": {
                "size": source.image_size,
                "fit": "pad",
                "background": "white",
                "channels": "RGB",
                "factor": factor.tolist(),
                "shift": shift.tolist(),
            },
            "text": {"max_tokens": source.max_tokens} | ({"pad": source.pad} if source.family == "siglip" else {}),
        },
        "sources": source.digests(),
        "head": head_digest(head),
    }


def head_digest(head: Head | None) -> str | None:
    return tensors_digest([head]) if head else None


def _torch_encoder(source: Checkpoint, image: Any, text: Any, head: Head | None, dim: int) -> Encoder:
    photo, title = (Graph(torch_run(module), dim) for module in (image, text))
    tokenizer = load_tokenizer(source.tokenizer, source.max_tokens)
    return Encoder("torch", photo, title, torch_sum(dim, head), tokenizer, source.image_size)


def torch_sum(dim: int, head: Head | None) -> Sum:
    return Sum(dim, Graph(torch_run(head), dim) if head else None)


def _card(identity: Mapping[str, Any], checkpoint: str, about: Mapping[str, Any]) -> Card:
    return Card(
        identity,
        _parts(identity, checkpoint),
        [TrainingSet(**entry) for entry in about.get("training", ())],
        about.get("training_digest"),
        about.get("settings", {}),
        [Quality(**entry) for entry in about.get("quality", ())],
        licence=LICENCE,
    )


def _parts(identity: Mapping[str, Any], checkpoint: str) -> Sequence[Part]:
    name, size = f"{identity['family'].upper()} checkpoint {checkpoint}", identity["preprocessing"]["image"]["size"]
    parts = [
        Part("image.onnx", f"image side of the {name}; it takes padded squares of {size} px", LICENCE),
        Part("text.onnx, tokenizer.json", f"text side of the {name}", LICENCE),
    ]
    head = Part("head.onnx, head.safetensors", "gated sum of both sides", "Apache-2.0")
    return [*parts, head] if identity["head"] else parts
