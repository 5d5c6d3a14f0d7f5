"""The training of an encoder: what it starts from, the processes that do it, and the candidate that comes out."""

import os
import shutil
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from pyspark.ml.torch.distributor import TorchDistributor
from pyspark.sql import SparkSession

from samestyle.encoder.backbones import Half
from samestyle.encoder.dual_stream import export_headed
from samestyle.encoder.export import export_trained, export_unified
from samestyle.encoder.files import EncoderFiles
from samestyle.encoder.fusion import Fusion, FusionShape
from samestyle.encoder.head import Head, HeadedSum, load_head, save_head
from samestyle.encoder.registry import local_copy, record_evaluation, register
from samestyle.encoder.sources import Sources
from samestyle.encoder.weights import load_fusion, save_fusion
from samestyle.errors import SamestyleError, UsageError
from samestyle.evaluation.records import evaluation_name, evaluation_record, results_bytes
from samestyle.progress import say
from samestyle.settings import Train
from samestyle.tables.training_data import encoder_identity
from samestyle.tables.workshop import Workshop
from samestyle.training.end_to_end import EndToEnd
from samestyle.training.folder import TrainingFolder
from samestyle.training.outcome import Outcome
from samestyle.training.process import TrainProcess, train_process


def write_start(workshop: Workshop, work: TrainingFolder) -> None:
    """The fusion or the head to begin with; see starting_fusion and starting_head."""
    train, files = workshop.settings.train, EncoderFiles.open(local_copy(workshop.store, workshop.encoder.encoder_id))
    if files.kind == "dual_stream":
        head, told = starting_head(train, files)
        save_head(head, work.start, {})
    else:
        fusion, told = starting_fusion(train, files)
        save_fusion(fusion, work.start, {})
    say(f"train: starts from {told}")


def starting_head(train: Train, files: EncoderFiles) -> tuple[Head, str]:
    """The encoder's where it has one; and what it is, in words."""
    if train.start == "current" and files.has_head:
        return load_head(files.path("head.safetensors"))[0], f"the head of encoder {files.encoder_id}"
    return Head(files.manifest["identity"]["dim"]), "a new head, the plain sum of photo and title"


def starting_fusion(train: Train, files: EncoderFiles) -> tuple[Fusion, str]:
    """The encoder's where it has the shape that the settings ask for; and what it is, in words."""
    fusion, _ = load_fusion(files.path("fusion.safetensors"))
    wanted = wanted_shape(train, fusion.shape)
    if train.start == "current" and fits(fusion.shape, wanted):
        started, told = Fusion(wanted), f"the weights of encoder {files.encoder_id}"
        started.load_state_dict(fusion.state_dict())
    else:
        torch.manual_seed(train.seed)
        started, told = Fusion(wanted), "new weights"
        if train.start == "current":
            told += f", as encoder {files.encoder_id} has {fusion.shape} and train.* asks for {wanted}"
    return started, told


def wanted_shape(train: Train, found: FusionShape) -> FusionShape:
    widths = {name: getattr(found, name) for name in ("image_half", "text_half", "image_width", "text_width")}
    return FusionShape(
        **widths, width=train.width, layers=train.layers, heads=train.heads, residual_cap=train.residual_cap
    )


def fits(found: FusionShape, wanted: FusionShape) -> bool:
    """The cap has no weights."""
    return found.to_dict() | {"residual_cap": None} == wanted.to_dict() | {"residual_cap": None}


def check_encoder(workshop: Workshop) -> None:
    """Raises UsageError where the encoder has neither fusion nor head to train, and where its backbones are to be
    trained and it is not made of what is packaged."""
    identity = encoder_identity(workshop)
    if workshop.settings.train.depth == "backbones":
        check_packaged(workshop.encoder.encoder_id, identity)


def check_packaged(encoder_id: str, identity: dict[str, Any]) -> None:
    """Raises UsageError unless backbones and projection of the encoder are the packaged ones."""
    if identity["kind"] == "dual_stream":
        raise UsageError(
            f"encoder {encoder_id} is of kind dual_stream, whose networks are never trained, and train.depth=backbones "
            "asks for that: set train.depth=fusion, which trains its head"
        )
    found, packaged = identity["sources"], Sources.find().digests()
    foreign = [name for name in packaged if found.get(name) != packaged[name]]
    if foreign:
        raise UsageError(
            f"encoder {encoder_id} has {'a projection' if foreign == ['transform'] else 'backbones'} of its own, and "
            "train.depth=backbones starts from the packaged backbones and projection: start from an encoder that has "
            "these, by encoder.path=... (of a calibrated one, what it was calibrated from), or set train.depth=fusion"
        )


def train(spark: SparkSession, workshop: Workshop, work: TrainingFolder) -> None:
    """In this process, or in train.processes of them by TorchDistributor: on this machine, or one a GPU of a cluster.

    Raises what a process raised.
    """
    failed, processes = work.path / "failed.json", workshop.settings.train.processes
    failed.unlink(missing_ok=True)
    local = str(spark.sparkContext.master).partition("[")[0] == "local"  # and not local-cluster[...]
    if processes == 1 and local:
        train_process(str(work.path))
        return
    if local and sys.platform == "linux":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # processes of one machine need no other network
    gpus = not local and spark.sparkContext.getConf().get("spark.task.resource.gpu.amount", "0") != "0"
    try:
        TorchDistributor(num_processes=processes, local_mode=local, use_gpu=gpus).run(TrainProcess(str(work.path)))
    except Exception as error:
        if failed.exists():
            told = work.read("failed")
            raise error_of(told["exit_code"], told["error"]) from error
        raise


def error_of(exit_code: int, text: str) -> SamestyleError:
    """The error of ours that a process ended with."""
    kinds = {kind.exit_code: kind for kind in SamestyleError.__subclasses__()}
    return (SamestyleError if exit_code == SamestyleError.exit_code else kinds[exit_code])(text)


def register_candidate(workshop: Workshop, outcome: Outcome, data: dict[str, Any]) -> str:
    """Export what was trained, put it into the registry with its evaluation, and return its id. It is not promoted."""
    folder = workshop.run.path / "encoder"
    shutil.rmtree(folder, ignore_errors=True)
    encoder_id = export(workshop, folder, outcome, about(workshop, outcome, data))
    workshop.lease.check()
    register(workshop.store, folder)
    for result, measured_id in ((outcome.before, workshop.encoder.encoder_id), (outcome.after, encoder_id)):
        if result is not None:
            name, at = evaluation_name([result]), datetime.now(UTC).isoformat(timespec="seconds")
            record = evaluation_record(name, measured_id, at, [result])
            record_evaluation(workshop.store, measured_id, name, record, results_bytes([result]))
    return encoder_id


def export(workshop: Workshop, folder: Path, outcome: Outcome, facts: dict[str, Any]) -> str:
    model, base = outcome.model, local_copy(workshop.store, workshop.encoder.encoder_id)
    if isinstance(model, HeadedSum):
        return export_headed(folder, base, model.head, facts)
    if not isinstance(model, EndToEnd):
        return export_trained(folder, base, model, facts)
    if not outcome.best_step:  # the backbones are as they were
        return export_trained(folder, base, model.fusion, facts)
    modules = {"image": half_of(model.image), "text": half_of(model.text)}
    size = EncoderFiles.open(base).manifest["identity"]["preprocessing"]["image"]["size"]
    return export_unified(folder, model.fusion, facts, modules, image_size=size)


def half_of(side: Any) -> Half:
    """The trained module within a HalfAndTokens."""
    return side.side.eval()


def about(workshop: Workshop, outcome: Outcome, data: dict[str, Any]) -> dict[str, Any]:
    """What encoder.json and the model card say of the training."""
    settings, base = workshop.settings, EncoderFiles.open(local_copy(workshop.store, workshop.encoder.encoder_id))
    own = {
        "name": settings.catalogue.table or Path(str(settings.catalogue.path)).name,
        "licence": "your own",
        "used": f"{data['train_pairs']:,} pairs of {data['train_groups']:,} style groups",
    }
    return {
        "training": [*base.manifest.get("training", []), own],
        "training_digest": data["digest"],
        "trained_from": base.encoder_id,
        "settings": {
            "train": settings.train.model_dump(mode="json"),
            "losses": settings.losses.model_dump(mode="json"),
        },
        "quality": outcome.quality(),
    }


def describe(workshop: Workshop, encoder_id: str, outcome: Outcome) -> dict[str, Any]:
    """The record `training`."""
    return {
        "encoder_id": encoder_id,
        "from": workshop.encoder.encoder_id,
        "best_step": outcome.best_step,
        "steps": workshop.settings.train.steps,
        "compared": [asdict(one) | {"verdict": one.verdict} for one in outcome.compared()],
        "history": asdict(outcome.history),
    }


def closing_lines(record: dict[str, Any]) -> list[str]:
    first, new = record["from"], record["encoder_id"]
    lines = [
        f"train: {one['direction']} {one['metric']} {one['first']:.3f} -> {one['second']:.3f}, {one['verdict']} "
        f"({one['difference']['low']:+.3f} to {one['difference']['high']:+.3f})"
        for one in record["compared"]
        if one["metric"] == "recall@1"
    ]
    if new == first:
        return [*lines, f"train: no step was better than the start: encoder {first} stays the best"]
    return [
        *lines,
        f"train: candidate {new}, the weights of step {record['best_step']:,} of {record['steps']:,}",
        f"next: ./spark-submit.sh evaluate_encoder --encoder {new} --against {first}: on more than the "
        "few products that the weights were chosen by",
    ]
