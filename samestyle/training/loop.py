"""The training loop: batches through the model, losses, a look at the validation split, the best weights."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from samestyle.encoder.fusion import IMAGE_GRID, Fusion
from samestyle.encoder.head import HeadedSum
from samestyle.evaluation.directions import DIRECTIONS, Measured, measure
from samestyle.settings import Losses, Train
from samestyle.training.checkpoint import Checkpoint, fill_optimiser, optimiser_tensors
from samestyle.training.distributed import Processes
from samestyle.training.end_to_end import EndToEnd
from samestyle.training.features import Inputs
from samestyle.training.losses import check_finite, total_loss
from samestyle.training.pairs import Batch, Batches

VIEWS = ("image", "text", "fused")
# What the best weights are chosen by: the mean reciprocal rank of these directions.
CHOOSING = ("i-i", "i-t", "t-i", "i-m", "t-m", "m-m")
# In these the product itself is a right answer: its photo finds its title.
ALIGNED = ("i-t", "t-i")
# Of the learning rate; what has been trained on millions of pictures is to move little.
BACKBONE_RATE = 0.02
POINTS = 2000  # of the curves of the loss
NONE = -1  # the group of a row that only stands in the way

# What joins the sides; of a HeadedSum the fused vectors alone are trained.
Joint = Fusion | HeadedSum
Model = Joint | EndToEnd
Tensors = dict[str, Tensor]


class Source(Protocol):
    """Where the inputs of contents come from: photos and titles for EndToEnd, else cached features."""

    @property
    def variants(self) -> int:
        """Of each photo, itself the first."""

    @property
    def longest(self) -> int:
        """Tokens of the longest title."""

    @property
    def has_image(self) -> np.ndarray:
        """(n,) bool."""

    @property
    def has_text(self) -> np.ndarray:
        """(n,) bool."""

    def batch(self, rows: np.ndarray, variants: np.ndarray) -> Inputs: ...


@dataclass(frozen=True)
class Validation:
    """rows (n,) int64 of the source, and their style group (n,): each row that has one asks all the others.

    Rows of group NONE do not ask: they are what a shop has besides, without which a few pairs are found too easily.
    """

    rows: np.ndarray
    group: np.ndarray

    @property
    def asking(self) -> np.ndarray:
        """Those that ask, in their order."""
        return self.rows[self.group != NONE]


@dataclass
class History:
    """What was seen on the way: the terms of the loss at steps, what validation gave at some of them."""

    losses: list[dict[str, float]] = field(default_factory=list)
    validation: list[dict[str, float]] = field(default_factory=list)


def learning_rate(step: int, settings: Train) -> float:
    """Rises over the warm-up, then falls to 0 along a half cosine."""
    if step < settings.warmup:
        return settings.learning_rate * (step + 1) / settings.warmup
    progress = (step - settings.warmup) / max(1, settings.steps - settings.warmup)
    return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))


def hidden(features: Tensors, view: str) -> Tensors:
    """The same batch as a view sees it: `image` without the title, `text` without the photo, `fused` with both."""
    if view == "fused":
        return features
    side = "text" if view == "image" else "image"
    return features | {
        side: torch.zeros_like(features[side]),
        f"{side}_tokens": torch.zeros_like(features[f"{side}_tokens"][:, :1]),
        f"{side}_mask": torch.zeros_like(features[f"{side}_mask"][:, :1]),
    }


@dataclass(frozen=True)
class Draws:
    """The random numbers behind one pass of a batch, drawn for all of it whoever computes which of its rows."""

    tokens: dict[str, np.ndarray]
    modality: np.ndarray

    @classmethod
    def of(cls, random: np.random.Generator, size: int, longest: int) -> "Draws":
        tokens = {"image": random.random((size, IMAGE_GRID**2)), "text": random.random((size, longest))}
        return cls(tokens, random.random(size))

    def share(self, rows: slice) -> "Draws":
        return Draws({side: numbers[rows] for side, numbers in self.tokens.items()}, self.modality[rows])


def dropped(features: Tensors, settings: Train, draws: Draws, modalities: bool) -> Tensors:
    """The batch with some tokens hidden, and in some rows, where both are there, the whole photo or title."""
    out = dict(features)
    for side, numbers in draws.tokens.items():
        mask = features[f"{side}_mask"]
        kept = torch.from_numpy(numbers[:, : mask.shape[1]] >= settings.token_dropout)
        out[f"{side}_mask"] = mask * kept.to(mask)
    if modalities:
        both = (features["image_mask"].any(dim=1) & features["text_mask"].any(dim=1)).cpu()
        draw, half = torch.from_numpy(draws.modality), settings.modality_dropout / 2
        for side, lost in (("image", both & (draw < half)), ("text", both & (draw > 1 - half))):
            kept = (~lost)[:, None].to(out[side])
            out |= {side: out[side] * kept, f"{side}_mask": out[f"{side}_mask"] * kept}
    return out


def features_of(model: Model, inputs: Inputs) -> Tensors:
    """What the joint's `join` takes, on the model's device: the tokens are read once for all views of a batch."""
    device = next(model.parameters()).device
    tensors = {name: torch.from_numpy(np.ascontiguousarray(array)).to(device) for name, array in inputs.items()}
    features = model.features(tensors) if isinstance(model, EndToEnd) else tensors
    image, text = joint_of(model).read(features["image_tokens"], features["text_tokens"])
    return features | {"image_tokens": image, "text_tokens": text}


def joint_of(model: Model) -> Joint:
    return model.fusion if isinstance(model, EndToEnd) else model


@torch.no_grad()
def encode(model: Model, source: Source, rows: np.ndarray, batch_size: int = 128) -> dict[str, np.ndarray]:
    """{view: (rows, dim) float32}; zero where the view's modality is missing; a lone modality is the fused vector."""
    model.eval()
    joint = joint_of(model)
    out = {view: np.zeros((len(rows), joint.dim), np.float32) for view in VIEWS}
    for start in range(0, len(rows), batch_size):
        part = rows[start : start + batch_size]
        features = features_of(model, source.batch(part, np.zeros(len(part), np.int64)))
        for view in VIEWS:
            out[view][start : start + len(part)] = joint.join(**hidden(features, view)).cpu().numpy()
    out["image"][~source.has_image[rows]] = 0
    out["text"][~source.has_text[rows]] = 0
    return out


def measured(
    views: dict[str, np.ndarray], group: np.ndarray, directions: tuple[str, ...] = DIRECTIONS
) -> dict[str, Measured]:
    """Each row with a group searches all others for those of its own; from photo to title and back, itself as well."""
    asks = group != NONE
    asking = {view: vectors[asks] for view, vectors in views.items()}
    itself = np.eye(len(group), dtype=bool)[asks]
    same = group[asks, None] == group
    across = measure(asking, views, same & ~itself, itself, [d for d in directions if d not in ALIGNED])
    aligned = measure(asking, views, same, np.zeros_like(same), [d for d in directions if d in ALIGNED])
    found = across | aligned
    return {direction: found[direction] for direction in directions if len(found[direction].ranks.rows)}


def validate(model: Model, source: Source, validation: Validation) -> dict[str, float]:
    """`<direction> mrr`, recall@1 and recall@10 of the validation rows, and `score`, what weights are chosen by."""
    found = measured(encode(model, source, validation.rows), validation.group, CHOOSING)
    ranks = [one.aggregates["mrr"] for one in found.values()]
    return {
        f"{direction} {name}": one.aggregates[name]
        for direction, one in found.items()
        for name in ("mrr", "recall@1", "recall@10")
    } | {"score": float(np.mean(ranks)) if ranks else 0.0}


class Trainer:
    """Trains `model` in place. `step` is the next one; what a step draws is a function of the seed and its number.

    With `checkpoint`, a file, training goes on from what it holds, and leaves its state there after every look.
    `names` tells the ids of rows, for errors.
    """

    def __init__(
        self,
        model: Model,
        source: Source,
        batches: Batches,
        validation: Validation,
        settings: Train,
        losses: Losses,
        processes: Processes | None = None,
        checkpoint: Path | None = None,
        names: Callable[[np.ndarray], list[str]] = lambda rows: list(map(str, rows)),
    ) -> None:
        self.model, self.source, self.batches, self.validation = model, source, batches, validation
        self.settings, self.losses, self.names = settings, losses, names
        self.processes, self.checkpoint = processes or Processes(), checkpoint
        self.optimiser = optimiser_of(model, settings)
        device = next(model.parameters()).device.type
        half = torch.bfloat16 if device != "cuda" or torch.cuda.is_bf16_supported() else torch.float16
        self.autocast = torch.autocast(device, half, enabled=device == "cuda")
        self.scaler = torch.amp.GradScaler(device, enabled=half == torch.float16)
        self.step, self.history = 0, History()
        self.average = snapshot(model)
        self.best_score, self.best = -1.0, snapshot(model)

    def run(self, watch: Callable[["Trainer"], object] = lambda trainer: None) -> History:
        """Train to the last step and leave the best weights in the model. `watch` is called after each look.

        The best are those of the highest score; without validation rows, the last. Of several processes the first
        alone looks, and has them.
        """
        if self.checkpoint and self.checkpoint.exists():
            self.resume(self.checkpoint)
        else:
            self.look(watch)
        while self.step < self.settings.steps:
            self.train_step()
            if self.step % self.settings.evaluate_every == 0 or self.step == self.settings.steps:
                self.look(watch)
        self.model.load_state_dict(self.best)
        return self.history

    def train_step(self) -> None:
        """One batch forward and back. Raises SamestyleError, naming the batch, where the loss is not finite."""
        batch = self.batches.at(self.step)
        terms = self.loss(batch)
        check_finite(terms, self.names(batch.trigger))
        for group in self.optimiser.param_groups:
            group["lr"] = group["rate"] * learning_rate(self.step, self.settings)
        self.optimiser.zero_grad()
        self.scaler.scale(terms["total"]).backward()
        self.processes.sum_gradients(self.model.parameters())
        self.scaler.unscale_(self.optimiser)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.clip_norm)
        self.scaler.step(self.optimiser)
        self.scaler.update()
        if self.step % max(1, self.settings.steps // POINTS) == 0:
            self.history.losses.append({"step": self.step} | {name: value.item() for name, value in terms.items()})
        self.step += 1
        self.move_average()

    @torch.no_grad()
    def move_average(self) -> None:
        """The moving average of the weights: it is what validation sees and what is kept, steadier than the last step.

        At first it follows quickly, as otherwise it would remember the random start.
        """
        stays = min(self.settings.average, (1 + self.step) / (10 + self.step))
        for name, tensor in self.model.state_dict().items():
            if tensor.is_floating_point():
                self.average[name].lerp_(tensor, 1 - stays)
            else:
                self.average[name].copy_(tensor)

    def loss(self, batch: Batch) -> Tensors:
        """The terms of the loss of a whole batch; its gradient reaches the rows of this process."""
        self.model.train()
        views = self.processes.gathered(self.views(batch), len(batch.group))
        text, image = (torch.from_numpy(has[batch.trigger]) for has in (self.source.has_text, self.source.has_image))
        device = views["trigger_fused"].device
        groups = torch.from_numpy(batch.group).to(device)
        fused_only = isinstance(self.model, HeadedSum)
        return total_loss(views, groups, self.losses, text.to(device), image.to(device), fused_only)

    def views(self, batch: Batch) -> Tensors:
        """The passes of this process's rows: the trigger's views, the offer's fused one and, if needed, its others."""
        size, rows = len(batch.group), self.processes.share(len(batch.group))
        random = np.random.default_rng((self.settings.seed, self.step, 1))
        offers = VIEWS if self.losses.single_views else VIEWS[2:]
        views = {}
        for side, contents, variants, wanted in (
            ("trigger", batch.trigger[rows], batch.trigger_variant[rows], VIEWS),
            ("offer", batch.offer[rows], batch.offer_variant[rows], offers),
        ):
            with self.autocast:
                features = features_of(self.model, self.source.batch(contents, variants))
                for view in wanted:
                    draws = Draws.of(random, size, self.source.longest).share(rows)
                    seen = dropped(hidden(features, view), self.settings, draws, view == "fused")
                    views[f"{side}_{view}"] = joint_of(self.model).join(**seen).float() * self.has(contents, view)
        # Of views that no loss asks for, something must stand there.
        return {f"offer_{view}": views["offer_fused"] for view in VIEWS} | views

    def has(self, contents: np.ndarray, view: str) -> Tensor:
        """(rows, 1): 0 where a row lacks the view's modality, whose vector must not count."""
        has = {"image": self.source.has_image, "text": self.source.has_text}.get(view)
        present = np.ones(len(contents)) if has is None else has[contents]
        return torch.from_numpy(present.astype(np.float32))[:, None].to(next(self.model.parameters()).device)

    def look(self, watch: Callable[["Trainer"], object]) -> None:
        """Measure on the validation rows, keep the weights if they are the best so far, and leave a checkpoint."""
        if not self.processes.first:
            return
        live = snapshot(self.model)
        self.model.load_state_dict(self.average)
        found = validate(self.model, self.source, self.validation)
        self.model.load_state_dict(live)
        self.history.validation.append({"step": self.step} | found)
        if found["score"] > self.best_score or not len(self.validation.rows):
            self.best_score, self.best = found["score"], {name: t.clone() for name, t in self.average.items()}
        if self.checkpoint:
            self.save(self.checkpoint)
        watch(self)

    def save(self, path: Path) -> None:
        parts = {
            "model": snapshot(self.model),
            "average": self.average,
            "best": self.best,
            "optimiser": optimiser_tensors(self.model, self.optimiser),
        }
        tensors = {f"{part}.{name}": tensor for part, named in parts.items() for name, tensor in named.items()}
        state = {
            "step": self.step,
            "best_score": self.best_score,
            "history": vars(self.history),
            "scaler": self.scaler.state_dict(),
            "stepped": [name for name, parameter in self.model.named_parameters() if parameter in self.optimiser.state],
        }
        Checkpoint(tensors, state).write(path)

    def resume(self, path: Path) -> None:
        """Raises IntegrityError for a file that is damaged, foreign, or of a model of another shape."""
        saved, wanted = Checkpoint.read(path), self.model.state_dict()
        parts = {part: saved.part(part, wanted, path) for part in ("model", "average", "best")}
        self.model.load_state_dict(parts["model"])
        self.average, self.best = (
            {name: tensor.to(wanted[name].device) for name, tensor in parts[part].items()}
            for part in ("average", "best")
        )
        self.step, self.best_score = saved.state["step"], saved.state["best_score"]
        fill_optimiser(self.model, self.optimiser, saved, path)
        self.history = History(**saved.state["history"])
        self.scaler.load_state_dict(saved.state["scaler"])


def optimiser_of(model: Model, settings: Train) -> torch.optim.Optimizer:
    """AdamW; `rate` of a group multiplies the learning rate."""
    groups = [{"params": list(joint_of(model).parameters()), "rate": 1.0}]
    if isinstance(model, EndToEnd):
        groups.append({"params": list(model.backbone_parameters()), "rate": BACKBONE_RATE})
    return torch.optim.AdamW(groups, lr=settings.learning_rate, weight_decay=settings.weight_decay)


def snapshot(model: torch.nn.Module) -> Tensors:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
