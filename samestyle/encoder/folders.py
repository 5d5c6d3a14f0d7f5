"""A new encoder's folder: complete and proved by its golden queries, or not there at all."""

import tempfile
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from samestyle.encoder.card import Card
from samestyle.encoder.files import MANIFEST, EncoderFiles, identity_digest, write_manifest
from samestyle.encoder.golden import write_golden
from samestyle.encoder.preprocessing import VIEWS
from samestyle.encoder.runtime import Encoder
from samestyle.errors import SamestyleError, UsageError

# Writes graphs, weights and tokenizer.json to a folder, and returns the same encoder on torch.
Writer = Callable[[Path], Encoder]


def write_encoder(folder: Path, card: Card, about: Mapping[str, Any], write: Writer) -> str:
    """Write an encoder of the card's identity to `folder` and return its encoder_id.

    Nothing is done where `folder` holds this very encoder, undamaged; another or a damaged one is replaced by
    renaming. The golden vectors come from what `write` returns, so that each loading compares the graphs with it.
    `about` goes into encoder.json.

    Raises UsageError where `folder` holds something else.
    """
    encoder_id = identity_digest(dict(card.identity))
    if is_complete(folder, encoder_id):
        return encoder_id
    if folder.exists() and not (folder / MANIFEST).is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} holds something else than an encoder: name an empty or a new folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as scratch:
        fresh = Path(scratch) / "fresh"
        fresh.mkdir()
        write_golden(fresh, write(fresh))
        (fresh / "card.md").write_text(card.render(), encoding="utf-8")
        facts = {"views": VIEWS, "metric": "cosine", "created_at": datetime.now(UTC).isoformat(timespec="seconds")}
        write_manifest(fresh, dict(card.identity), facts | dict(about))
        Encoder.load(fresh)
        if folder.exists():
            folder.rename(Path(scratch) / "former")
        fresh.rename(folder)
    return encoder_id


def is_complete(folder: Path, encoder_id: str) -> bool:
    """Whether `folder` holds this very encoder, undamaged."""
    try:
        return EncoderFiles.open(folder).encoder_id == encoder_id
    except SamestyleError:
        return False
