"""Encoders that this process has loaded."""

from functools import lru_cache
from pathlib import Path

from samestyle.encoder.runtime import Encoder


@lru_cache(maxsize=2)
def load_cached(folder: str, threads: int = 1) -> Encoder:
    """The encoder in `folder`, verified and loaded once a process: what every task of a Spark worker calls.

    A folder never changes once it is written (its name or its parent's should hold the encoder_id), so the path
    is the key.
    """
    return Encoder.load(Path(folder), threads)
