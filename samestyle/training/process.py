"""One process of a training: alone, or one of several that torchrun starts; all it needs is the training's folder."""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from samestyle.encoder.head import HeadedSum
from samestyle.errors import SamestyleError, UsageError
from samestyle.progress import clock, say
from samestyle.settings import Train
from samestyle.training.distributed import Processes, joined_processes
from samestyle.training.end_to_end import EndToEnd
from samestyle.training.features import Features
from samestyle.training.folder import TrainingFolder
from samestyle.training.loop import Model, Source, Trainer, encode
from samestyle.training.pairs import Batches
from samestyle.training.photos import Photos


def train_process(folder: str) -> None:
    """Train as `folder` says, from its checkpoint if there is one, and leave the result in it.

    An error of ours is written to failed.json, too: it comes from another process, perhaps from another host.
    """
    work = TrainingFolder(Path(folder))
    try:
        with joined_processes() as processes:
            train(work, processes)
    except SamestyleError as error:
        work.write("failed", {"error": str(error), "exit_code": error.exit_code})
        raise


class TrainProcess:
    """train_process of a folder, as it travels from the driver to a Spark worker, and from there to torchrun."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def __call__(self) -> None:
        train_process(self.folder)

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        # A worker finds our code in what Spark has shipped; the processes that it starts look into PYTHONPATH alone.
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))


def train(work: TrainingFolder, processes: Processes) -> None:
    settings, losses, pairs, validation = work.read_task()
    own = work.read_own()
    if processes.world > settings.batch:
        raise UsageError(
            f"{processes.world} processes share batches of train.batch={settings.batch} pairs: each needs one at "
            "least; set train.batch higher or train.processes lower"
        )
    make_repeatable(settings.seed, processes)
    model, source = model_and_source(work, settings, processes)
    batches = Batches(pairs, source.variants, settings.batch, settings.alignment, settings.seed, own)
    trainer = Trainer(model, source, batches, validation, settings, losses, processes, work.checkpoint, work.names)
    history = trainer.run(watcher())
    if processes.first:
        first, _ = model_and_source(work, settings, processes)
        for name, weights in (("before", first), ("after", model)):
            work.write_views(name, encode(weights, source, validation.rows))
        work.write_result(model.state_dict(), history)


def model_and_source(work: TrainingFolder, settings: Train, processes: Processes) -> tuple[Model, Source]:
    joint = work.read_start().requires_grad_(True)
    if settings.depth == "fusion" or isinstance(joint, HeadedSum):
        return joint.to(processes.device), Features.open(work.features)
    photos = Photos.open(work.photos)
    return EndToEnd.around(joint, photos.size).to(processes.device), photos


def make_repeatable(seed: int, processes: Processes) -> None:
    """Same seed, same weights, on one machine."""
    torch.manual_seed(seed)
    # Threads of one process wait for each other at every step, far too long on a machine that does other work too;
    # and another number of them gives other last bits. More cores are for more processes.
    torch.set_num_threads(1)
    if processes.device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)


def watcher() -> Callable[[Trainer], None]:
    """Says a line for every look at the validation split."""
    began = time.monotonic()

    def watch(trainer: Trainer) -> None:
        seen = trainer.history.validation[-1]
        recent = [terms["total"] for terms in trainer.history.losses[-trainer.settings.evaluate_every :]]
        parts = [f"train {trainer.step:,}/{trainer.settings.steps:,}"]
        parts += [f"loss {sum(recent) / len(recent):.4f}"] if recent else []
        parts += [f"{d} R@1 {seen[f'{d} recall@1']:.3f}" for d in ("i-i", "i-t", "m-m") if f"{d} recall@1" in seen]
        say(" · ".join([*parts, clock(time.monotonic() - began)]))

    return watch
