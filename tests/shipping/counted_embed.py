"""The job `embed`, run as a program of its own, whose workers write down every title that they hand to the encoder.

python counted_embed.py SETTING ...; a line a title goes to the file that $COUNTED names, before it is encoded.
"""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import udfs.embed
from jobs import embed
from samestyle.encoder.registry import EncoderReference
from samestyle.tables.analysis import local_session


class CountedModel:
    """A real encoder that keeps a list of what it was asked for."""

    def __init__(self, model: Any, path: str) -> None:
        self.model, self.path = model, path

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    def encode(self, titles: Sequence[str | None], *rest: Any, **named: Any) -> Any:
        with open(self.path, "a", encoding="utf-8") as file:  # one write of a few lines: workers do not mix theirs
            file.write("".join(f"{title}\n" for title in titles))
        return self.model.encode(titles, *rest, **named)


@dataclass(frozen=True)
class CountedEncoder:
    """What travels to workers in place of the encoder's reference."""

    reference: EncoderReference
    path: str

    def load(self, threads: int = 1) -> CountedModel:
        return CountedModel(self.reference.load(threads), self.path)


def counted_udf(encoder: EncoderReference, *rest: Any) -> Any:
    return udfs.embed.embed_udf(CountedEncoder(encoder, os.environ["COUNTED"]), *rest)


if __name__ == "__main__":
    import counted_embed  # under its own name, so that workers find by it what is sent to them

    embed.embed_udf = counted_embed.counted_udf
    local_session()
    sys.exit(embed.main())
