"""Exports the encoder `dual_stream`: a CLIP, SigLIP or ALIGN checkpoint, joined by a sum or a trained head."""

import shutil
from pathlib import Path
from typing import Any

from samestyle.encoder.card import Card, Part, TrainingSet
from samestyle.encoder.checkpoints import Checkpoint, ImageTower
from samestyle.encoder.folders import write_encoder
from samestyle.encoder.graph_files import write_head_graph, write_image_graph, write_text_graph
from samestyle.encoder.graphs import Graph, torch_run
from samestyle.encoder.head import Head, load_head
from samestyle.encoder.joins import Sum
from samestyle.encoder.preprocessing import load_tokenizer
from samestyle.encoder.runtime import Encoder
from samestyle.encoder.weights import tensors_digest
from samestyle.errors import IntegrityError

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

    training = [TrainingSet(**entry) for entry in about.get("training", ())]
    card = Card(
        identity_of(source, joiner, dim),
        _parts(source, joiner),
        training,
        about.get("training_digest"),
        licence=LICENCE,
    )
    return write_encoder(folder, card, {"checkpoint": checkpoint.name} | about, write)


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
        "head": tensors_digest([head]) if head else None,
    }


def _torch_encoder(source: Checkpoint, image: Any, text: Any, head: Head | None, dim: int) -> Encoder:
    join = Sum(dim, Graph(torch_run(head), dim) if head else None)
    photo, title = (Graph(torch_run(module), dim) for module in (image, text))
    tokenizer = load_tokenizer(source.tokenizer, source.max_tokens)
    return Encoder("torch", photo, title, join, tokenizer, source.image_size)


def _parts(source: Checkpoint, head: Head | None) -> list[Part]:
    name = f"{source.family.upper()} checkpoint {source.folder.name}"
    parts = [
        Part("image.onnx", f"image side of the {name}; it takes padded squares of {source.image_size} px", LICENCE),
        Part("text.onnx, tokenizer.json", f"text side of the {name}", LICENCE),
    ]
    return parts + ([Part("head.onnx, head.safetensors", "gated sum of both sides", "Apache-2.0")] if head else [])
