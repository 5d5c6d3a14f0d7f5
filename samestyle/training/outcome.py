"""What a training came to: both encoders on the validation split, side by side."""

import hashlib
from dataclasses import dataclass
from typing import Any

from samestyle.encoder.head import HeadedSum
from samestyle.evaluation.comparison import Compared, compare
from samestyle.evaluation.records import SetResult, read_results, results_bytes
from samestyle.training.end_to_end import EndToEnd
from samestyle.training.folder import TrainingFolder
from samestyle.training.loop import History, Model, measured
from samestyle.training.photos import Photos

SET = "validation"
PROTOCOL = (
    "the products of the style groups kept for validation; each searches the others, and up to a thousand more of the "
    "catalogue, from photo to title and back also for itself. The weights were chosen on them: `evaluate_encoder` has "
    "products that nothing has seen"
)


@dataclass(frozen=True)
class Outcome:
    """before, after: on the validation split, None where there is none; model: the trained one."""

    model: Model
    history: History
    before: SetResult | None
    after: SetResult | None

    @property
    def best_step(self) -> int:
        """At which the weights were taken; the first of the best, or the last where nothing was measured."""
        looks = self.history.validation
        best = max(looks, key=lambda look: look["score"]) if self.after else looks[-1]
        return int(best["step"])

    def compared(self) -> list[Compared]:
        if self.before is None or self.after is None:
            return []
        first, second = (read_results(results_bytes([result])) for result in (self.before, self.after))
        return compare(first, second)

    def quality(self) -> list[dict[str, Any]]:
        """For the model card."""
        if self.after is None:
            return []
        figures = self.after.figures()
        metrics = {
            direction: {name: (found[name], *found["intervals"][name]) for name in found["intervals"]}
            for direction, found in figures.items()
        }
        return [{"name": SET, "protocol": PROTOCOL, "metrics": metrics}]


def read_outcome(work: TrainingFolder) -> Outcome:
    """Raises IntegrityError where the training has not ended."""
    tensors, history = work.read_result()
    model = model_of(work)
    model.load_state_dict(tensors)
    return Outcome(model.eval(), history, result_of(work, "before"), result_of(work, "after"))


def model_of(work: TrainingFolder) -> Model:
    joint, settings = work.read_start(), work.read_task()[0]
    if settings.depth == "fusion" or isinstance(joint, HeadedSum):
        return joint
    return EndToEnd.around(joint, Photos.open(work.photos).size)


def result_of(work: TrainingFolder, name: str) -> SetResult | None:
    validation = work.read_task()[3]
    if not len(validation.rows):
        return None
    views, names = work.read_views(name), work.names(validation.asking)
    asked = repr(list(zip(work.names(validation.rows), validation.group.tolist(), strict=True)))
    digest = hashlib.sha256(asked.encode()).hexdigest()[:16]
    return SetResult(SET, PROTOCOL, digest, names, [None] * len(names), measured(views, validation.group))
