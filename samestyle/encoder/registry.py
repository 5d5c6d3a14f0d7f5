"""The encoders of a store: `encoders/<encoder_id>/<file>`, and `encoders/current`, the one that the next run uses."""

import json
import os
import shutil
import tempfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from samestyle.encoder.runtime import Encoder
from samestyle.errors import IntegrityError, UsageError
from samestyle.release.store import Store

CURRENT = "encoders/current"


@dataclass(frozen=True)
class EncoderReference:
    """An encoder by its id: it travels to executors, where `load` fetches it once a host and opens it once a worker."""

    store: Store
    encoder_id: str

    def load(self, threads: int = 1) -> Encoder:
        """Raises IntegrityError where the files are not what they were when the encoder was registered."""
        return load_cached(str(local_copy(self.store, self.encoder_id)), threads)


@lru_cache(maxsize=2)
def load_cached(folder: str, threads: int = 1) -> Encoder:
    """The encoder in `folder`, verified and loaded once a process: what every task of a Spark worker calls.

    A folder never changes once it is written, so its path is the key.
    """
    return Encoder.load(Path(folder), threads)


def register(store: Store, folder: Path) -> str:
    """Put an exported encoder into the store, under its id, which is returned. encoder.json comes last."""
    encoder_id = str(json.loads((folder / "encoder.json").read_text(encoding="utf-8"))["encoder_id"])
    if not store.exists(f"encoders/{encoder_id}/encoder.json"):
        files = sorted(f for f in folder.rglob("*") if f.is_file())
        for file in sorted(files, key=lambda f: f.name == "encoder.json"):
            store.put_file(file, f"encoders/{encoder_id}/{file.relative_to(folder).as_posix()}")
    return encoder_id


def wanted_encoder(store: Store, exported: Path, chosen: bool) -> str:
    """Id of the encoder that a new run uses: the exported one where it is `chosen` or the store is new, else current.

    Raises UsageError where there is none.
    """
    named = store.find(CURRENT)
    if named is not None and not chosen:
        return str(json.loads(named)["encoder_id"])
    if not (exported / "encoder.json").is_file():
        raise UsageError(f"no encoder in {store.uri}, and none at {exported}: run ./spark-submit.sh setup")
    return str(json.loads((exported / "encoder.json").read_text(encoding="utf-8"))["encoder_id"])


def adopt_encoder(store: Store, exported: Path, encoder_id: str) -> None:
    """Make this encoder the current one, registering it if need be. The caller holds the lock.

    Another encoder means other vectors: the next night embeds the whole catalogue anew, beside those that are there.
    """
    named, pointer = store.find(CURRENT), json.dumps({"encoder_id": encoder_id}).encode()
    if named != pointer:
        register(store, exported)
        store.swap(CURRENT, named, pointer)


def encoder_files(store: Store, encoder_id: str) -> list[str]:
    """Names of an encoder's files, relative to its folder."""
    prefix = f"encoders/{encoder_id}/"
    return [key.removeprefix(prefix) for key in store.list(prefix)]


def local_copy(store: Store, encoder_id: str) -> Path:
    """The encoder's folder on this host, fetched once; processes of one user share it."""
    folder = private_folder() / encoder_id
    if folder.is_dir():
        return folder
    partial = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{encoder_id}-"))
    for name in encoder_files(store, encoder_id):
        target = partial / name
        target.parent.mkdir(parents=True, exist_ok=True)
        store.get_file(f"encoders/{encoder_id}/{name}", target)
    try:
        partial.rename(folder)
    except OSError:  # another worker of this host was first
        shutil.rmtree(partial)
    return folder


def private_folder() -> Path:
    """A cache below the temporary folder that nobody else may write to: what lies there is opened by workers."""
    folder = Path(tempfile.gettempdir()) / f"samestyle-{os.getuid()}" / "encoders"
    folder.parent.mkdir(mode=0o700, exist_ok=True)
    folder.mkdir(exist_ok=True)
    owner = folder.parent.stat().st_uid
    if owner != os.getuid():
        raise IntegrityError(f"{folder.parent} belongs to user {owner}, not to {os.getuid()}: remove it or set TMPDIR")
    return folder
