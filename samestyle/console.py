"""What the commands of the console script share: the call that they answer, and tables of text."""

import argparse
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from samestyle.errors import UsageError
from samestyle.release.publish import read_pointer
from samestyle.release.store import Store, open_store
from samestyle.settings import Settings

COUNTS = ("read", "fresh", "reused", "stale", "degraded", "rejected", "deleted")


@dataclass(frozen=True)
class Call:
    """One call of the script: its arguments, and what they lead to."""

    arguments: argparse.Namespace
    settings: Settings

    @property
    def root(self) -> Path:
        """Folder of all that runs write. Raises UsageError where it is not set."""
        if self.settings.paths.root is None:
            raise UsageError("paths.root is not set: add paths.root=FOLDER, or name a --settings file that has it")
        return Path(self.settings.paths.root)

    @property
    def store(self) -> Store:
        return open_store(self.settings.release.store or self.root / "store")

    @property
    def channel(self) -> str:
        return self.arguments.channel or self.settings.release.channel

    def release_id(self) -> str:
        """The release that was named, or the one that the channel names. Raises UsageError."""
        if self.arguments.id:
            return self.arguments.id
        pointer = read_pointer(self.store, self.channel)
        if pointer is None:
            raise UsageError(f"channel {self.channel} of {self.store.uri} names no release yet: run the nightly job")
        return pointer.release_id


def cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    if isinstance(value, dict):
        return ", ".join(f"{key} {cell(inner)}" for key, inner in value.items())
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f}"


def print_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Columns as wide as their widest cell; numbers to the right."""
    lines = [tuple(head), *map(tuple, rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    right = [all(is_number(line[i]) for line in lines[1:]) for i in range(len(head))]
    for line in lines:
        cells = (text.rjust(w) if r else text.ljust(w) for text, w, r in zip(line, widths, right, strict=True))
        print("  ".join(cells).rstrip())


def is_number(text: str) -> bool:
    return re.fullmatch(r"[\d,.]*", text) is not None


def print_pairs(pairs: Sequence[tuple[str, str]]) -> None:
    width = max(len(name) for name, _ in pairs)
    for name, value in pairs:
        print(f"{name.ljust(width)}  {value}")
