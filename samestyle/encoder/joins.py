"""How the two sides of an encoder become one vector: a join for each kind."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from samestyle.encoder.features import Features
from samestyle.encoder.files import EncoderFiles
from samestyle.encoder.graphs import Graph
from samestyle.errors import IntegrityError

# Rows a run of the fusion: more are no faster on one thread.
BATCH = 32


class Join(Protocol):
    """Features, a side zero where it is missing or hidden -> (n, dim) float32, each row of length 1."""

    dim: int

    def __call__(self, features: Features) -> np.ndarray: ...


class Concatenation:
    """late_fusion: [image half | text half]."""

    def __init__(self, dim: int) -> None:
        self.dim = dim

    def __call__(self, features: Features) -> np.ndarray:
        return normalised(np.hstack([features.image, features.text]))


class CrossAttention:
    """unified: one transformer over the tokens of both sides (samestyle.encoder.fusion)."""

    def __init__(self, fusion: Graph) -> None:
        self.dim, self.fusion = fusion.dim, fusion

    def __call__(self, features: Features) -> np.ndarray:
        vectors = np.empty((len(features), self.dim), np.float32)
        by_length = np.argsort(features.text_mask.sum(axis=1), kind="stable")
        for start in range(0, len(features), BATCH):
            rows = by_length[start : start + BATCH]
            vectors[rows] = self.fusion.run(*features.take(rows).arrays)[0]
        return vectors


class Sum:
    """dual_stream: the sum of both vectors; with a trained head, its gated sum where there are two."""

    def __init__(self, dim: int, head: Graph | None = None) -> None:
        self.dim, self.head = dim, head

    def __call__(self, features: Features) -> np.ndarray:
        vectors = normalised(features.image + features.text)
        both = features.has_image & features.has_text
        if self.head and both.any():
            vectors[both] = self.head.run(features.image[both], features.text[both])[0]
        return vectors


def load_join(files: EncoderFiles, image: Graph, text: Graph, threads: int = 1) -> Join:
    """The join of a folder's kind. Raises IntegrityError where it does not fit the two sides."""
    join: Join
    if files.kind == "late_fusion":
        join = Concatenation(image.dim + text.dim)
    elif files.kind == "unified":
        join = CrossAttention(Graph.load(files.path("fusion.onnx"), threads))
    else:
        join = Sum(image.dim, Graph.load(files.path("head.onnx"), threads) if files.has_head else None)
    expected = files.manifest["identity"]["dim"]
    if join.dim != expected:
        raise IntegrityError(
            f"the graphs of {files.folder} give {join.dim} dimensions, encoder.json says {expected}; "
            "export the encoder again"
        )
    return join


def joined(features: Features, join: Join, views: Sequence[str]) -> dict[str, np.ndarray]:
    """{view: (n, dim)}, zero where a view's modality is missing; the fused vector of a lone modality is that view's."""
    has = features.has_image, features.has_text
    vectors = {view: _passed(features, join, view, rows) for view, rows in passes(*has, views).items()}
    alone = np.logical_xor(*has)[:, None]
    vectors["fused"] = np.where(alone, vectors["image"] + vectors["text"], vectors["fused"])
    return {view: vectors[view] for view in views}


def passes(has_image: np.ndarray, has_text: np.ndarray, views: Sequence[str]) -> dict[str, np.ndarray]:
    """{view: (n,) bool}: which rows go through the join as which view. A lone side always does: it is the fused one."""
    both = has_image & has_text
    has = {"image": has_image, "text": has_text}
    return {side: has[side] & (~both | (side in views)) for side in has} | {"fused": both & ("fused" in views)}


def normalised(vectors: np.ndarray) -> np.ndarray:
    """Rows of length 1; a zero row stays zero."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.divide(vectors, norms, out=np.zeros_like(vectors), where=norms > 0)


def _passed(features: Features, join: Join, view: str, rows: np.ndarray) -> np.ndarray:
    vectors = np.zeros((len(features), join.dim), np.float32)
    if rows.any():
        vectors[rows] = join(features.take(np.flatnonzero(rows)).showing(view))
    return vectors
