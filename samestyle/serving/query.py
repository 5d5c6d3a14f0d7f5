"""Photos and words as query vectors, by the encoder that made the release's own. Needs the extra `query`."""

from collections.abc import Sequence

import numpy as np

from samestyle.catalogue.images import DecodeLimits, decode_image
from samestyle.catalogue.titles import normalise_title
from samestyle.encoder.runtime import Encoder
from samestyle.errors import IntegrityError, UsageError
from samestyle.serving.searcher import Searcher


class QueryEncoder:
    """The query encoder of a release, verified and tried on its golden queries when it is loaded."""

    def __init__(self, encoder: Encoder, limits: DecodeLimits) -> None:
        self.encoder = encoder
        self.limits = limits

    @classmethod
    def of(cls, searcher: Searcher, threads: int = 1, limits: DecodeLimits | None = None) -> "QueryEncoder":
        """The encoder of the release that `searcher` serves now; ask again after a refresh that switched.

        Raises IntegrityError where it is damaged, is not the manifest's, or gives other vectors.
        """
        entry = searcher.manifest.encoder
        with searcher.cache.in_use():
            encoder = Encoder.load(searcher.cache.encoder_folder(entry), threads)
        found, expected = (encoder.encoder_id, encoder.dim), (entry.encoder_id, entry.dim)
        if found != expected:
            raise IntegrityError(
                f"the encoder of release {searcher.release_id} is {found[0]} with {found[1]} dimensions, "
                f"the manifest says {expected[0]} with {expected[1]}: its vectors do not fit, roll back"
            )
        return cls(encoder, limits or DecodeLimits())

    @property
    def encoder_id(self) -> str:
        return self.encoder.encoder_id

    def encode(self, photo: bytes | None = None, words: str | None = None) -> np.ndarray:
        """One query, of a photo's file, words, or both, as a (dim,) float32 vector of length 1, for any view.

        Raises ImageError for a photo that cannot be read, UsageError where there is neither photo nor words.
        """
        return self.encode_many([photo], [words])[0]

    def encode_many(self, photos: Sequence[bytes | None], words: Sequence[str | None]) -> np.ndarray:
        """Several queries: (q, dim) float32, each row of length 1. Raises as `encode`."""
        titles = [normalise_title(text) for text in words]
        size = self.encoder.image_size
        images = [None if data is None else decode_image(data, self.limits, size) for data in photos]
        if any(title is None and image is None for title, image in zip(titles, images, strict=True)):
            raise UsageError("a query has neither a photo nor words: give at least one")
        return self.encoder.encode(titles, images, ["fused"])["fused"]
