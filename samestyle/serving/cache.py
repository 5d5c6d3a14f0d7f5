"""A folder of downloaded objects, shared by the processes of a host, verified whenever one is handed out."""

import os
import shutil
import uuid
from pathlib import Path

from samestyle.errors import IntegrityError
from samestyle.release.manifest import EncoderEntry
from samestyle.release.store import TEMPORARY, ObjectRef, Store, digest_file, reporting


class Cache:
    """Verified local copies of a store's objects."""

    def __init__(self, store: Store, folder: str | Path) -> None:
        self.store = store
        self.folder = Path(folder)

    def fetch(self, ref: ObjectRef) -> Path:
        """The object as a local file. Raises IntegrityError where the store's copy is not what `ref` says."""
        path = self.folder / ref.key
        if not (path.exists() and digest_file(path) == (ref.sha256, ref.bytes)):
            self.download(ref, path)
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
        return folder


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
