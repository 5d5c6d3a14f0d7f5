"""The encoder at run time, in Spark workers, serving and notebooks alike: ONNX Runtime, tokenizers, numpy."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnxruntime as ort
from tokenizers import Tokenizer

from samestyle.encoder.files import EncoderFiles
from samestyle.encoder.preprocessing import check_inputs, image_batches, load_tokenizer, token_batches
from samestyle.errors import IntegrityError, UsageError

VIEWS = ("image", "text", "fused")
GOLDEN_COSINE = 0.9999
# Photos a run of the graph: more fall out of the processor's cache (32: a fifth slower, 350 MB more).
IMAGE_BATCH = 4


class Graph:
    """One side's network: arrays in, (n, dim) float32 out. Here by ONNX Runtime, in export by torch."""

    def __init__(self, run: Callable[..., np.ndarray], dim: int) -> None:
        self.run, self.dim = run, dim

    @classmethod
    def load(cls, path: Path, threads: int = 1) -> "Graph":
        """An ONNX file on the CPU, with `threads` threads a call."""
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        options.use_deterministic_compute = True
        options.log_severity_level = 3
        session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        names = [node.name for node in session.get_inputs()]
        dim = int(session.get_outputs()[0].shape[1])
        return cls(lambda *arrays: session.run(None, dict(zip(names, arrays, strict=True)))[0], dim)

    def images(self, images: Sequence[np.ndarray], batch_size: int) -> np.ndarray:
        """(size, size, 3) uint8 RGB each -> (images, dim) float32."""
        out = np.empty((len(images), self.dim), np.float32)
        for rows, pixels in image_batches(images, batch_size):
            out[rows] = self.run(pixels)
        return out

    def titles(self, titles: Sequence[str], tokenizer: Tokenizer, batch_size: int) -> np.ndarray:
        """Titles -> (titles, dim) float32."""
        out = np.empty((len(titles), self.dim), np.float32)
        for rows, ids, mask in token_batches(tokenizer, titles, batch_size):
            out[rows] = self.run(ids, mask)
        return out


class Encoder:
    """Titles and photos to image, text and fused vectors of one space.

    A vector is [image half | text half] of unit length; a missing modality leaves its half zero, so that the
    fused vector of a product without a photo is its text vector.
    """

    views = VIEWS

    def __init__(self, encoder_id: str, image: Graph, text: Graph, tokenizer: Tokenizer, image_size: int) -> None:
        self.encoder_id = encoder_id
        self.image_size = image_size
        self.dim = image.dim + text.dim
        self._image, self._text, self._tokenizer = image, text, tokenizer

    @classmethod
    def load(cls, folder: Path, threads: int = 1) -> "Encoder":
        """Open an encoder's folder; `threads` of ONNX Runtime a call.

        Raises UsageError where `folder` holds no encoder, IntegrityError where a file's checksum is wrong, or
        where this machine's vectors of the golden queries differ from the recorded ones (cosine below .9999).
        """
        files = EncoderFiles.open(Path(folder))
        settings = files.manifest["identity"]["preprocessing"]
        image, text = (Graph.load(files.path(name), threads) for name in ("image.onnx", "text.onnx"))
        tokenizer = load_tokenizer(files.path("tokenizer.json"), settings["text"]["max_tokens"])
        encoder = cls(files.encoder_id, image, text, tokenizer, settings["image"]["size"])
        check_golden(encoder, files)
        return encoder

    def encode(
        self,
        titles: Sequence[str | None],
        images: Sequence[np.ndarray | None],
        views: Sequence[str] = VIEWS,
        batch_size: int = 32,
    ) -> dict[str, np.ndarray]:
        """Return {view: (rows, dim) float32}, each row of length 1, or zero where its modality is missing.

        titles: one a row, None if missing. images: (image_size, image_size, 3) uint8 RGB as decode_image
        gives them, None if missing. Each backbone runs at most once a row, whatever the views, on at most
        `batch_size` rows at once.

        Raises UsageError for an unknown view, a row with neither, lists of unequal length, a wrong image.
        """
        unknown = sorted(set(views) - set(VIEWS))
        if unknown:
            raise UsageError(f"unknown view {', '.join(unknown)}: choose from {', '.join(VIEWS)}")
        check_inputs(titles, images, self.image_size)
        image = np.zeros((len(images), self._image.dim), np.float32)
        text = np.zeros((len(titles), self._text.dim), np.float32)
        if "image" in views or "fused" in views:
            rows = [row for row, value in enumerate(images) if value is not None]
            present = [value for value in images if value is not None]
            image[rows] = self._image.images(present, min(batch_size, IMAGE_BATCH))
        if "text" in views or "fused" in views:
            rows = [row for row, value in enumerate(titles) if value is not None]
            text[rows] = self._text.titles(
                [value for value in titles if value is not None], self._tokenizer, batch_size
            )
        return {view: _joined(image, text, view) for view in views}


def check_golden(encoder: Encoder, files: EncoderFiles) -> None:
    """Encode the golden queries, their pictures from PNG on, and compare with the recorded vectors."""
    from samestyle.catalogue.images import DecodeLimits, decode_image

    golden = json.loads(files.path("golden.json").read_text(encoding="utf-8"))
    images = [
        decode_image(files.path(query["image"]).read_bytes(), DecodeLimits(), encoder.image_size)
        if query["image"]
        else None
        for query in golden
    ]
    vectors = encoder.encode([query["title"] for query in golden], images)
    for row, query in enumerate(golden):
        for view, expected in query["vectors"].items():
            cosine = float(vectors[view][row] @ np.asarray(expected, np.float32))
            if not cosine >= GOLDEN_COSINE:
                raise IntegrityError(
                    f"golden query {row} of {files.folder}, {view} view: cosine {cosine:.6f} to the recorded "
                    f"vector, expected at least {GOLDEN_COSINE}; the libraries here give other vectors than "
                    "the indexes hold: install the pinned requirements, or export the encoder again"
                )


def _joined(image: np.ndarray, text: np.ndarray, view: str) -> np.ndarray:
    left = np.zeros_like(image) if view == "text" else image
    both = np.hstack([left, np.zeros_like(text) if view == "image" else text])
    norms = np.linalg.norm(both, axis=1, keepdims=True)
    return np.divide(both, norms, out=np.zeros_like(both), where=norms > 0)
