"""The model card of an encoder, card.md: what it is, what it was made of and measured on, and what it is not for."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from samestyle.encoder.files import identity_digest

ABOUT = {
    "late_fusion": "Two frozen networks, photo and title, side by side in one vector. The fused vector is both halves, "
    "so that photos and titles are not aligned: a photo finds the title that describes it no better than chance does.",
    "unified": "Two frozen networks and a small transformer over their tokens, which moves the two halves of "
    "`late_fusion` by a capped step: one model, three views, each by masking what is missing.",
    "dual_stream": "Two networks that were trained together to put a photo and its title at the same place. The fused "
    "vector is their normalised sum, or a trained head's.",
}
LIMITS = (
    "Same style means what the training data means by it; measure it on your own catalogue before you rely on it.",
    "Not for telling people apart, nor for reading text in pictures.",
    "Titles in languages that the text network has not seen are matched by their spelling at best.",
)


@dataclass(frozen=True)
class Part:
    """A file of the encoder, or several: what it is made from, and under which licence."""

    file: str
    what: str
    licence: str


@dataclass(frozen=True)
class TrainingSet:
    """A data set that something in the encoder was fitted on. `used`: how much of it, in words."""

    name: str
    licence: str
    used: str = ""


@dataclass(frozen=True)
class Quality:
    """What was measured on one set. metrics: direction to metric to (value, low, high); low and high may be None."""

    name: str
    protocol: str
    metrics: Mapping[str, Mapping[str, tuple[float, float | None, float | None]]]


@dataclass(frozen=True)
class Card:
    """What card.md says. identity: that of encoder.json, with kind, dim and preprocessing; its digest is the id."""

    identity: Mapping[str, Any]
    parts: Sequence[Part]
    training: Sequence[TrainingSet] = ()
    training_digest: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    quality: Sequence[Quality] = ()
    limits: Sequence[str] = LIMITS
    licence: str = "Apache-2.0"

    def render(self) -> str:
        """The card as Markdown, ending with a line break."""
        return "\n".join(self._lines()) + "\n"

    def _lines(self) -> Iterator[str]:
        kind = str(self.identity["kind"])
        yield f"# Encoder {identity_digest(dict(self.identity))} ({kind})"
        yield from (
            "",
            f"Turns a product's photo and title into an image, a text and a fused vector of {self._shape()}.",
        )
        yield from (ABOUT.get(kind, ""), "")
        yield from table(("part", "what", "licence"), [(p.file, p.what, p.licence) for p in self.parts])
        yield from ("", "## Input", "", *self._input())
        yield from ("", "## Training data", "", *self._training())
        if self.settings:
            flat = [(name, f"`{json.dumps(value)}`") for name, value in flattened(self.settings)]
            yield from ("", "## Settings", "", *table(("setting", "value"), flat))
        yield from ("", "## Measured quality", "", *self._quality())
        yield from ("", "## Limits", "", *(f"- {limit}" for limit in self.limits))
        yield from ("", "## Licence", "", f"{self.licence}, and those of the parts above.")

    def _shape(self) -> str:
        return f"{self.identity['dim']} floats, length 1, one space; score by cosine"

    def _input(self) -> Iterator[str]:
        preprocessing = self.identity["preprocessing"]
        size = preprocessing["image"]["size"]
        yield f"- a photo: flattened on white, padded to a white square, scaled to {size} x {size} pixels, RGB, uint8;"
        yield f"- a title: at most {preprocessing['text']['max_tokens']} tokens;"
        yield "- both, or one of them: then the fused vector is that one's."

    def _training(self) -> Iterator[str]:
        if not self.training:
            yield "Nothing in it was trained or fitted by this project."
            return
        yield from table(("data", "licence", "used"), [(s.name, s.licence, s.used) for s in self.training])
        if self.training_digest:
            yield from ("", f"Digest of the training data: `{self.training_digest}`.")

    def _quality(self) -> Iterator[str]:
        if not self.quality:
            yield "Not measured when it was exported; `samestyle encoders show` lists what was recorded since."
        for number, measured in enumerate(self.quality):
            names = list(dict.fromkeys(name for metrics in measured.metrics.values() for name in metrics))
            rows = [(d, *(with_interval(m.get(name)) for name in names)) for d, m in measured.metrics.items()]
            yield from ("",) if number else ()
            yield from (f"**{measured.name}**: {measured.protocol}", "", *table(("direction", *names), rows))


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """The lines of a table in Markdown."""
    for line in (head, ["---"] * len(head), *rows):
        yield f"| {' | '.join(text.replace('|', '/') for text in line)} |"


def flattened(tree: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of nested settings, by dotted names."""
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from flattened(value, f"{path}{name}.")
        else:
            yield path + name, value


def with_interval(measured: tuple[float, float | None, float | None] | None) -> str:
    if measured is None:
        return ""
    value, low, high = measured
    return f"{value:.3f}" if low is None or high is None else f"{value:.3f} ({low:.3f} to {high:.3f})"
