"""A folder of downloaded objects, shared by the processes of a host, verified whenever one is handed out.

Who is handed one holds the folder's lock, with others, until it is open; who removes old ones holds it alone.
"""

import fcntl
import os
import shutil
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO

from samestyle.errors import IntegrityError
from samestyle.release.manifest import EncoderEntry, Manifest
from samestyle.release.store import SHA256, TEMPORARY, ObjectRef, Store, digest_file, reporting

LOCK = ".lock"
MAPPED = ".display-"
UNUSED_S = 86_400.0


class Cache:
    """Verified local copies of a store's objects. `unused_s`: a file that no reader asked for so long may go."""

    def __init__(self, store: Store, folder: str | Path, unused_s: float = UNUSED_S) -> None:
        self.store = store
        self.folder = Path(folder)
        self.unused_s = unused_s

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Meanwhile no process removes anything: hold this from `fetch` until what it gave is open."""
        with ExitStack() as held:
            with suppress(OSError):  # a folder that we may not write to; nor do we tidy it
                self.folder.mkdir(parents=True, exist_ok=True)
                fcntl.flock(held.enter_context(self.lock_file()), fcntl.LOCK_SH)
            yield

    def lock_file(self) -> IO[bytes]:
        return open(self.folder / LOCK, "ab")

    def fetch(self, ref: ObjectRef) -> Path:
        """The object as a local file. Raises IntegrityError where the store's copy is not what `ref` says."""
        path = self.folder / ref.key
        if not (path.exists() and digest_file(path) == (ref.sha256, ref.bytes)):
            self.download(ref, path)
        touch(path)
        return path

    def download(self, ref: ObjectRef, path: Path) -> None:
        stored = self.store.size(ref.key)
        if stored != ref.bytes:
            raise IntegrityError(f"{ref.key} has {stored} bytes in {self.store.uri}, the manifest says {ref.bytes}")
        temporary = path.parent / f"{TEMPORARY}{uuid.uuid4().hex}"
        try:
            with reporting(path):
                path.parent.mkdir(parents=True, exist_ok=True)
            self.store.get_object(ref, temporary)
            with reporting(path):
                os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)

    def encoder_folder(self, encoder: EncoderEntry) -> Path:
        """A folder with the encoder's files under their own names, verified."""
        folder = self.folder / "encoders" / encoder.encoder_id
        for name, ref in encoder.files.items():
            path = folder / name
            if not (path.exists() and digest_file(path) == (ref.sha256, ref.bytes)):
                place(self.fetch(ref), path)
            touch(path)
        return folder

    def tidy(self, manifests: Iterable[Manifest]) -> int:
        """Remove what no reader of this host has asked for lately; returns how many files.

        manifests: the releases whose files count as asked for now. Nothing is removed while a process is loading, nor
        from a folder that is a store: the next call will.
        """
        before, kept = time.time() - self.unused_s, set[Path]()
        for manifest in manifests:
            kept.update(self.folder / key for key in manifest.objects())
            kept.update((self.folder / "encoders" / manifest.encoder.encoder_id).rglob("*"))
        for path in kept:
            touch(path)
        with ExitStack() as held, suppress(OSError):
            fcntl.flock(held.enter_context(self.lock_file()), fcntl.LOCK_EX | fcntl.LOCK_NB)
            old = [path for path in self.own_files() if path not in kept and path.stat().st_mtime < before]
            for path in old:
                path.unlink(missing_ok=True)
            return len(old)
        return 0

    def own_files(self) -> Iterator[Path]:
        """What a cache has put here, and nothing else, whatever folder somebody named."""
        if (self.folder / "releases").exists() or (self.folder / "channels").exists():
            return
        for path in (self.folder / "objects").glob("*"):
            if SHA256.fullmatch(path.name[:64]) or path.name.startswith((TEMPORARY, MAPPED)):
                yield path
        yield from (path for path in (self.folder / "encoders").rglob("*") if path.is_file())


def touch(path: Path) -> None:
    """It was asked for now."""
    with suppress(OSError):
        os.utime(path)


def place(source: Path, path: Path) -> None:
    """Put a copy of `source` at `path` in one step."""
    temporary = path.parent / f"{TEMPORARY}{uuid.uuid4().hex}"
    with reporting(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            shutil.copyfile(source, temporary)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
