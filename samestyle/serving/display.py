"""What a page shows of an item: title, where its photo lies, a thumbnail; from a release's display files."""

import os
import tempfile
from bisect import bisect_left
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from samestyle.errors import IntegrityError
from samestyle.release.display import GROUP_ROWS, SCHEMA
from samestyle.release.manifest import Manifest
from samestyle.release.store import reporting
from samestyle.serving.cache import MAPPED, Cache


@dataclass(frozen=True)
class Card:
    """title, image_uri: as in the catalogue; thumbnail: a JPEG file's bytes. None for what is not known."""

    title: str | None = None
    image_uri: str | None = None
    thumbnail: bytes | None = None


class DisplayFile:
    """One row an item, sorted by item_id; only the ids lie in memory, the rest is mapped from a file without a name."""

    def __init__(self, table: pa.Table) -> None:
        self.table = table
        self.ids: pa.Array = table["item_id"].cast(pa.large_string()).combine_chunks()

    @classmethod
    def load(cls, path: Path, name: str) -> "DisplayFile":
        """Raises IntegrityError where the file is no Parquet, has other columns, or is not sorted by item_id."""
        try:
            loaded = cls(mapped(path))
        except (pa.ArrowException, KeyError) as error:
            raise IntegrityError(f"display file {name} is not readable: {error}; publish the release again") from error
        ids = loaded.ids
        if ids.null_count or not pc.all(pc.less(ids[:-1], ids[1:]), min_count=0).as_py():
            raise IntegrityError(f"display file {name} is not sorted by item_id, each once: publish the release again")
        return loaded

    def card(self, item_id: str) -> Card | None:
        row = bisect_left(range(len(self.ids)), item_id, key=lambda place: self.ids[place].as_py())
        if row == len(self.ids) or self.ids[row].as_py() != item_id:
            return None
        return Card(*(self.table[column][row].as_py() for column in ("title", "image_uri", "thumbnail")))


def mapped(path: Path) -> pa.Table:
    """A Parquet file's rows as an Arrow table whose bytes are mapped: Parquet itself is compressed by pages.

    The mapped file has lost its name before anything reads it, so that nobody can change it under the map.
    """
    with reporting(path):
        handle, name = tempfile.mkstemp(prefix=MAPPED, dir=path.parent)
    os.close(handle)
    try:
        with reporting(path), pa.OSFile(name, "wb") as sink, pa.ipc.new_file(sink, SCHEMA) as writer:
            for batch in pq.ParquetFile(path).iter_batches(GROUP_ROWS):
                writer.write(batch.select(SCHEMA.names).cast(SCHEMA))
        return pa.ipc.open_file(pa.memory_map(name)).read_all()
    finally:
        os.unlink(name)


class Display:
    """The cards of a release; of none where it carries no display files."""

    def __init__(self, files: Iterable[DisplayFile] = ()) -> None:
        self.files = tuple(files)

    @classmethod
    def load(cls, cache: Cache, manifest: Manifest) -> "Display":
        """Download, verify and open. Raises IntegrityError."""
        refs = (manifest.display or {}).items()
        with cache.in_use():
            return cls(DisplayFile.load(cache.fetch(ref), f"{name} ({ref.key})") for name, ref in refs)

    def cards(self, item_ids: Collection[str]) -> dict[str, Card | None]:
        """What is known of each item; None for an unknown one."""
        return {item_id: self.card(item_id) for item_id in item_ids}

    def card(self, item_id: str) -> Card | None:
        found = (file.card(item_id) for file in self.files)
        return next((card for card in found if card), None)
