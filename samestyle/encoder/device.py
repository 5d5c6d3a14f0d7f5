"""The encoder on a GPU, by torch: the graphs and weights of the same folder, and its vectors within a tolerance.

Photos and tokens go to the device from pinned memory while it computes, features stay there until the views are joined,
and the vectors alone come back. Any device of torch will do: on `cpu` it is what the tests compare with ONNX Runtime.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional as F

from samestyle.encoder.batching import BatchSize
from samestyle.encoder.files import EncoderFiles
from samestyle.encoder.golden import COSINE, check_golden
from samestyle.encoder.head import Head, HeadedSum, load_head
from samestyle.encoder.joins import passes
from samestyle.encoder.preprocessing import VIEWS, load_tokenizer, present, token_batches, wanted_inputs
from samestyle.encoder.torch_graph import TorchGraph
from samestyle.encoder.weights import load_fusion
from samestyle.errors import UsageError

PRECISIONS = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
# Lowest cosine to the recorded vectors. The flat drawings among them are the hardest: of the encoder that is shipped,
# fp16, with 11 binary digits, gives .9999 there and .99998 on photos, bf16, with 8, gives .984 and .996.
GOLDEN = {"bf16": 0.97, "fp16": 0.999, "fp32": COSINE}
# Batches whose features are held on the device at once.
BATCHES = 4
OnHost = np.ndarray | Sequence[np.ndarray]  # rows as one array, or as one each


class Side(NamedTuple):
    """One modality of n rows on the device: vector (n, width), tokens (n, t, token width), mask (n, t) float32."""

    vector: Tensor
    tokens: Tensor
    mask: Tensor

    def spread(self, rows: np.ndarray, size: int) -> "Side":
        """The same as rows `rows` of `size`; the others lack the modality and are zero."""
        at = torch.from_numpy(rows).to(self.vector.device, non_blocking=True)
        return Side(*(part.new_zeros(size, *part.shape[1:]).index_copy_(0, at, part) for part in self))

    def take(self, rows: Tensor) -> "Side":
        return Side(*(part.index_select(0, rows) for part in self))

    def hidden(self) -> "Side":
        """As many rows that lack it: one token each, which does not count."""
        rows, width = len(self.vector), self.tokens.shape[2]
        zeros = self.vector.new_zeros
        return Side(torch.zeros_like(self.vector), self.tokens.new_zeros(rows, 1, width), zeros(rows, 1).float())


class Concatenated(nn.Module):
    """late_fusion: [image half | text half]; tokens and masks are ignored, as in HeadedSum."""

    def forward(self, image: Tensor, image_tokens: Tensor, image_mask: Tensor, text: Tensor, *rest: Tensor) -> Tensor:
        return F.normalize(torch.cat([image, text], dim=1))


class DeviceEncoder:
    """What samestyle.encoder.runtime.Encoder is, on a device of torch; may be called from several threads.

    Each thread has a stream of its own, so that one thread's copies go on while the device computes for another.
    """

    views = VIEWS

    def __init__(self, files: EncoderFiles, device: torch.device, precision: torch.dtype) -> None:
        settings = files.manifest["identity"]["preprocessing"]
        self.encoder_id, self.dim = files.encoder_id, int(files.manifest["identity"]["dim"])
        self.image_size = int(settings["image"]["size"])
        self.device, self.precision = device, precision
        self.batch = BatchSize()
        self._tokenizer: Tokenizer = load_tokenizer(files.path("tokenizer.json"), settings["text"]["max_tokens"])
        self._image, self._text = (TorchGraph(files.path(f"{side}.onnx")).to(device) for side in ("image", "text"))
        self._join = load_join(files, self.dim).to(device).eval().requires_grad_(False)
        self._of_thread = threading.local()

    @classmethod
    def load(cls, folder: Path, device: str = "cuda:0", precision: str = "fp16") -> "DeviceEncoder":
        """Open an encoder's folder on a device, `cuda:0`, `cuda:1`, ... or `cpu`; this is where CUDA begins.

        Weights stay in float32, products and convolutions run in `precision`. Raises UsageError where there is no such
        device or no encoder, IntegrityError where a file is damaged, and where the vectors of the golden queries differ
        from the recorded ones: cosine below .9999, in fp16 .999, in bf16 .97.
        """
        chosen = checked_device(device)
        if precision == "fp32" and chosen.type == "cuda":
            torch.backends.cudnn.allow_tf32 = False  # whoever asks for all digits does not get 10 of 23
        files = EncoderFiles.open(Path(folder))
        encoder = cls(files, chosen, PRECISIONS[precision])
        if chosen.type == "cuda":
            torch.cuda.synchronize(chosen)  # other streams than this one will read the weights
        check_golden(encoder, files, GOLDEN[precision])
        return encoder

    def encode(
        self,
        titles: Sequence[str | None],
        images: Sequence[np.ndarray | None],
        views: Sequence[str] = VIEWS,
        batch_size: int = 256,
    ) -> dict[str, np.ndarray]:
        """As Encoder.encode. Where memory runs out, fewer than `batch_size` rows are taken at once, for a while."""
        titles, images = wanted_inputs(titles, images, views, self.image_size)
        parts, step = [], BATCHES * batch_size
        with self._at_work():
            for start in range(0, max(1, len(titles)), step):
                rows = slice(start, start + step)
                parts.append(self._encoded(titles[rows], images[rows], views, batch_size))
        return {view: np.concatenate([part[view] for part in parts]) for view in views}

    @contextmanager
    def _at_work(self) -> Iterator[None]:
        with ExitStack() as stack:
            stack.enter_context(torch.inference_mode())
            lower = self.precision != torch.float32
            stack.enter_context(torch.autocast(self.device.type, self.precision if lower else None, enabled=lower))
            if self.device.type == "cuda":
                if not hasattr(self._of_thread, "stream"):
                    self._of_thread.stream = torch.cuda.Stream(self.device)
                stack.enter_context(torch.cuda.stream(self._of_thread.stream))
            yield

    def _encoded(
        self, titles: Sequence[str | None], images: Sequence[np.ndarray | None], views: Sequence[str], batch_size: int
    ) -> dict[str, np.ndarray]:
        rows, photos, words = len(titles), present(images), present(titles)
        image = self._photos([images[row] for row in photos], batch_size).spread(photos, rows)
        text = self._titles([titles[row] for row in words], batch_size).spread(words, rows)
        has_image, has_text = (np.isin(np.arange(rows), side) for side in (photos, words))
        vectors = {
            view: self._joined(image, text, view, np.flatnonzero(wanted), batch_size)
            for view, wanted in passes(has_image, has_text, views).items()
        }
        alone = self._copied((has_image ^ has_text)[:, None])
        vectors["fused"] = torch.where(alone, vectors["image"] + vectors["text"], vectors["fused"])
        return self._on_host({view: vectors[view] for view in views})

    def _photos(self, images: Sequence[np.ndarray], batch_size: int) -> Side:
        """A row each."""
        if not images:
            return self._none(self._image)
        vector, *tokens = self._run(self._image, [images], batch_size)
        return side_of(vector, tokens, None)

    def _titles(self, titles: Sequence[str], batch_size: int) -> Side:
        """A row each, shorter ones filled up with tokens that do not count."""
        found = []
        for rows, ids, mask in token_batches(self._tokenizer, titles, batch_size):
            vector, *tokens = self._run(self._text, [ids, mask], batch_size)
            found.append((self._copied(rows), side_of(vector, tokens, self._copied(mask.astype(np.float32)))))
        if not found:
            return self._none(self._text)
        longest = max(side.mask.shape[1] for _, side in found)
        whole = Side(*(part.new_zeros(len(titles), *part.shape[1:]) for part in padded(found[0][1], longest)))
        for at, side in found:
            for target, part in zip(whole, padded(side, longest), strict=True):
                target.index_copy_(0, at, part)
        return whole

    def _joined(self, image: Side, text: Side, view: str, rows: np.ndarray, batch_size: int) -> Tensor:
        """(all rows, dim) float32, zero but for `rows`."""
        vectors = torch.zeros(len(image.vector), self.dim, device=self.device)
        if len(rows):
            at = self._copied(rows)
            sides = [image.take(at), text.take(at)]
            if view != "fused":
                other = 1 if view == "image" else 0
                sides[other] = sides[other].hidden()
            found = self._run(self._join, [*sides[0], *sides[1]], batch_size)[0]
            vectors.index_copy_(0, at, F.normalize(found.float()))
        return vectors

    def _none(self, graph: TorchGraph) -> Side:
        width, token_width = (*graph.widths, 0)[:2]
        zeros = (torch.zeros(0, *shape, device=self.device) for shape in ((width,), (1, token_width), (1,)))
        return Side(*zeros)

    def _run(self, module: nn.Module, inputs: Sequence[OnHost | Tensor], batch_size: int) -> list[Tensor]:
        """The module's outputs for all rows, in as many pieces as `batch_size` and the device's memory want.

        inputs: arrays of n rows, or a list of n arrays, on the host; tensors on the device.
        """
        return in_pieces(
            lambda rows: outputs_of(module(*(self._there(part[rows]) for part in inputs))),
            len(inputs[0]),
            batch_size,
            self.batch,
        )

    def _there(self, rows: OnHost | Tensor) -> Tensor:
        return rows if isinstance(rows, Tensor) else self._copied(rows)

    def _copied(self, rows: OnHost) -> Tensor:
        """On the device, from pinned memory, without waiting for it."""
        # torch keeps pinned memory that is let go of, and gives it out again once the copy has ended.
        if isinstance(rows, np.ndarray):
            buffer = self._buffer(rows.shape, rows.dtype)
            buffer.numpy()[...] = rows
        else:
            buffer = self._buffer((len(rows), *rows[0].shape), rows[0].dtype)
            np.stack(rows, out=buffer.numpy())
        return buffer.to(self.device, non_blocking=True)

    def _buffer(self, shape: Sequence[int], kind: np.dtype) -> Tensor:
        return torch.empty(
            shape, dtype=torch.from_numpy(np.empty(0, kind)).dtype, pin_memory=self.device.type == "cuda"
        )

    def _on_host(self, vectors: dict[str, Tensor]) -> dict[str, np.ndarray]:
        if self.device.type != "cuda":
            return {view: tensor.numpy() for view, tensor in vectors.items()}
        buffers = {view: torch.empty_like(tensor, device="cpu", pin_memory=True) for view, tensor in vectors.items()}
        for view, tensor in vectors.items():
            buffers[view].copy_(tensor, non_blocking=True)
        torch.cuda.current_stream(self.device).synchronize()
        return {view: buffer.numpy().copy() for view, buffer in buffers.items()}


def checked_device(name: str) -> torch.device:
    """Raises UsageError where torch has no such device here."""
    device = torch.device(name)
    if device.type == "cuda":
        found = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= found:
            raise UsageError(
                f"no GPU {name} here: torch {torch.__version__} sees {found} (CUDA_VISIBLE_DEVICES and the driver "
                "decide); set encoder.device=cpu, or see docs/tuning.md"
            )
    return device


def load_join(files: EncoderFiles, dim: int) -> nn.Module:
    """What makes one vector of both sides, over the six inputs of Fusion.forward."""
    if files.kind == "late_fusion":
        return Concatenated()
    if files.kind == "unified":
        return load_fusion(files.path("fusion.safetensors"))[0]
    return HeadedSum(load_head(files.path("head.safetensors"))[0] if files.has_head else Head(dim))


def side_of(vector: Tensor, tokens: Sequence[Tensor], mask: Tensor | None) -> Side:
    """A network without tokens has one of width 0, which says that the row is there."""
    shown = tokens[0] if tokens else vector.new_zeros(len(vector), 1, 0)
    if mask is None or not tokens:
        mask = torch.ones(shown.shape[:2], device=vector.device)
    return Side(vector, shown, mask)


def padded(side: Side, longest: int) -> Side:
    more = longest - side.mask.shape[1] if side.tokens.shape[2] else 0
    return Side(side.vector, F.pad(side.tokens, (0, 0, 0, more)), F.pad(side.mask, (0, more)))


def outputs_of(found: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return found if isinstance(found, tuple) else (found,)


def in_pieces(
    work: Callable[[slice], tuple[Tensor, ...]], rows: int, batch_size: int, batch: BatchSize
) -> list[Tensor]:
    """What `work` makes of all rows, each output in one piece; smaller pieces where it runs out of the device's memory.

    Raises torch.OutOfMemoryError where not even one row has room.
    """
    parts: list[tuple[Tensor, ...]] = []
    start = 0
    while start < rows:
        piece = slice(start, min(rows, start + batch.at_most(batch_size)))
        size = piece.stop - piece.start
        try:
            parts.append(work(piece))
        except torch.OutOfMemoryError:
            if size == 1:
                raise
            batch.failed(size)
        else:
            batch.worked(batch_size)
            start = piece.stop
            continue
        # Only here, where the error and the tensors that its trace holds are gone.
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()
    return [torch.cat(part) for part in zip(*parts, strict=True)]
