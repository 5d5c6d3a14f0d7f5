"""The encoder at run time, in Spark workers, serving and notebooks alike: ONNX Runtime, tokenizers, numpy."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from samestyle.encoder.features import Features
from samestyle.encoder.files import EncoderFiles
from samestyle.encoder.golden import check_golden
from samestyle.encoder.graphs import Graph
from samestyle.encoder.joins import Concatenation, Join, joined, load_join
from samestyle.encoder.preprocessing import VIEWS, check_inputs, load_tokenizer, present, wanted_inputs
from samestyle.errors import UsageError

# Photos a run of the graph: more fall out of the processor's cache (32: a fifth slower, 350 MB more).
IMAGE_BATCH = 4
# Rows whose tokens are held at once: 0.2 MB each.
ROWS = 256


class Encoder:
    """Titles and photos to image, text and fused vectors of one space, whatever the kind.

    The fused vector of a product that has a title or a photo alone is its vector in that view.
    """

    views = VIEWS

    def __init__(
        self, encoder_id: str, image: Graph, text: Graph, join: Join, tokenizer: Tokenizer, image_size: int
    ) -> None:
        self.encoder_id = encoder_id
        self.image_size = image_size
        self.dim = join.dim
        self._image, self._text, self._join, self._tokenizer = image, text, join, tokenizer

    @classmethod
    def load(cls, folder: Path, threads: int = 1) -> "Encoder":
        """Open an encoder's folder; `threads` of ONNX Runtime a call.

        Raises UsageError where `folder` holds no encoder, IntegrityError where its kind is unknown, a file's
        checksum is wrong, or this machine's vectors of the golden queries differ from the recorded ones (cosine
        below .9999).
        """
        files = EncoderFiles.open(Path(folder))
        settings = files.manifest["identity"]["preprocessing"]
        image, text = (Graph.load(files.path(name), threads) for name in ("image.onnx", "text.onnx"))
        tokenizer = load_tokenizer(files.path("tokenizer.json"), settings["text"]["max_tokens"])
        join = load_join(files, image, text, threads)
        encoder = cls(files.encoder_id, image, text, join, tokenizer, settings["image"]["size"])
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
        titles, images = wanted_inputs(titles, images, views, self.image_size)
        parts = []
        for start in range(0, max(1, len(titles)), ROWS):
            rows = slice(start, start + ROWS)
            parts.append(joined(self._features(titles[rows], images[rows], batch_size), self._join, views))
        return {view: np.concatenate([part[view] for part in parts]) for view in views}

    def features(
        self, titles: Sequence[str | None], images: Sequence[np.ndarray | None], batch_size: int = 32
    ) -> Features:
        """What the frozen backbones give, before they are joined: what training caches. With tokens, 0.2 MB a row.

        Raises UsageError as `encode` does, and where nothing that can be trained joins the two sides.
        """
        if isinstance(self._join, Concatenation):
            raise UsageError(
                f"encoder {self.encoder_id} gives no tokens, which training a fusion needs: use one of kind unified"
            )
        check_inputs(titles, images, self.image_size)
        return self._features(titles, images, batch_size)

    def _features(self, titles: Sequence[str | None], images: Sequence[np.ndarray | None], batch_size: int) -> Features:
        photos = [image for image in images if image is not None]
        words = [title for title in titles if title is not None]
        image = self._image.images(photos, min(batch_size, IMAGE_BATCH))
        text = self._text.titles(words, self._tokenizer, batch_size)
        return Features(*image.spread(present(images), len(images)), *text.spread(present(titles), len(titles)))
