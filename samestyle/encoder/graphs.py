"""The networks of an encoder as arrays in, arrays out."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnxruntime as ort
from tokenizers import Tokenizer

from samestyle.encoder.features import Side
from samestyle.encoder.preprocessing import image_batches, token_batches

if TYPE_CHECKING:
    import torch

Run = Callable[..., Sequence[np.ndarray]]


class Graph:
    """A network, run by ONNX Runtime, or by torch where graphs are compared with it.

    `run` gives vectors (n, dim) and, unless token_width is 0, tokens (n, t, token_width), all float32.
    """

    def __init__(self, run: Run, dim: int, token_width: int = 0) -> None:
        self.run, self.dim, self.token_width = run, dim, token_width

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
        widths = [int(node.shape[-1]) for node in session.get_outputs()]
        return cls(lambda *arrays: session.run(None, dict(zip(names, arrays, strict=True))), *widths)

    def images(self, images: Sequence[np.ndarray], batch_size: int) -> Side:
        """(size, size, 3) uint8 RGB each -> a row each."""
        sides = [self._side(self.run(pixels)) for _, pixels in image_batches(images, batch_size)]
        if not sides:
            return Side.missing(0, self.dim, self.token_width)
        return Side(*(np.concatenate(parts) for parts in zip(*sides, strict=True)))

    def titles(self, titles: Sequence[str], tokenizer: Tokenizer, batch_size: int) -> Side:
        """Titles -> a row each, shorter ones filled up with tokens that do not count."""
        found = [
            (rows, self._side(self.run(ids, mask), mask))
            for rows, ids, mask in token_batches(tokenizer, titles, batch_size)
        ]
        longest = max((side.mask.shape[1] for _, side in found), default=1)
        whole = Side(
            np.empty((len(titles), self.dim), np.float32),
            np.zeros((len(titles), longest, self.token_width), np.float32),
            np.zeros((len(titles), longest), np.float32),
        )
        for rows, side in found:
            length = side.mask.shape[1]
            whole.vector[rows], whole.tokens[rows, :length], whole.mask[rows, :length] = side
        return whole

    def _side(self, outputs: Sequence[np.ndarray], mask: np.ndarray | None = None) -> Side:
        """A network without tokens has one of width 0, which says that the row is there."""
        rows = len(outputs[0])
        tokens = outputs[1] if self.token_width else np.zeros((rows, 1, 0), np.float32)
        if mask is None or not self.token_width:
            mask = np.ones(tokens.shape[:2])
        return Side(outputs[0], tokens, mask.astype(np.float32))


def torch_run(module: "torch.nn.Module") -> Run:
    """A module as `Graph` runs it: arrays in, a list of arrays out."""
    import torch

    def run(*arrays: np.ndarray) -> Sequence[np.ndarray]:
        with torch.inference_mode():
            outputs = module(*(torch.from_numpy(array) for array in arrays))
        return [output.numpy() for output in (outputs if isinstance(outputs, tuple) else (outputs,))]

    return run
