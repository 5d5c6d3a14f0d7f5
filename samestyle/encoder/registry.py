"""The encoders of a store, and `encoders/current`, which names the one that the next run uses.

encoders/<encoder_id>/<file>                     what encoder.json lists; written once, encoder.json last
encoders/<encoder_id>/evaluations/<name>.json    what was measured later, with <name>.parquet, a row a query
encoders/<encoder_id>/coverage.json              how much of a release `backfill` has embedded: see promotion.py

Workers and serving open the listed files alone.
"""

import json
import os
import re
import shutil
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from samestyle.encoder.files import MANIFEST, EncoderFiles
from samestyle.errors import IntegrityError, SamestyleError, UsageError
from samestyle.release.store import Store, check_key

if TYPE_CHECKING:
    from samestyle.encoder.device import DeviceEncoder
    from samestyle.encoder.runtime import Encoder

CURRENT = "encoders/current"
SHORTEST_PREFIX = 4
EVALUATION_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,179}")


@dataclass(frozen=True)
class EncoderReference:
    """An encoder by its id: it travels to executors, where `load` fetches it once a host and opens it once a worker."""

    store: Store
    encoder_id: str

    def load(self, threads: int = 1) -> "Encoder":
        """Raises IntegrityError where the files are not what they were when the encoder was registered."""
        return load_cached(str(local_copy(self.store, self.encoder_id)), threads)

    def load_on(self, device: str, precision: str) -> "DeviceEncoder":
        """The same on a GPU, as DeviceEncoder.load has them; raises what it raises too."""
        return load_on_device(str(local_copy(self.store, self.encoder_id)), device, precision)


@dataclass(frozen=True)
class EncoderFolder:
    """An exported encoder by its folder, which executors must see at the same place."""

    folder: Path

    def load(self, threads: int = 1) -> "Encoder":
        """Raises UsageError and IntegrityError as Encoder.load does."""
        return load_cached(str(self.folder), threads)

    def load_on(self, device: str, precision: str) -> "DeviceEncoder":
        """The same on a GPU, as DeviceEncoder.load has them; raises what it raises too."""
        return load_on_device(str(self.folder), device, precision)


@lru_cache(maxsize=2)
def load_cached(folder: str, threads: int = 1) -> "Encoder":
    """The encoder in `folder`, verified and loaded once a process: what every task of a Spark worker calls.

    A folder never changes once it is written, so its path is the key.
    """
    from samestyle.encoder.runtime import Encoder  # the console script looks at encoders without ONNX Runtime

    return Encoder.load(Path(folder), threads)


@lru_cache(maxsize=1)
def load_on_device(folder: str, device: str, precision: str) -> "DeviceEncoder":
    """The same on a device. Of one only: a worker that is given another GPU lets go of the one before."""
    try:
        from samestyle.encoder.device import DeviceEncoder  # torch, which only workers with a GPU need
    except ImportError as error:
        raise UsageError(
            f"encoding on {device} needs torch, onnx and safetensors, and {error}: install the extra samestyle[gpu] "
            "for the workers, or set encoder.device=cpu"
        ) from error
    return DeviceEncoder.load(Path(folder), device, precision)


def encoder_key(encoder_id: str, name: str = MANIFEST) -> str:
    """Where a file of an encoder lies in its store. Raises UsageError for a name that would lie elsewhere."""
    return check_key(f"encoders/{encoder_id}/{name}")


def register(store: Store, folder: Path) -> str:
    """Put an exported encoder into the store, under its id, which is returned. Evaluations come later, beside it.

    Nothing is written where that encoder is whole already; what a killed registration or a bad disk has left is written
    anew. Raises UsageError where `folder` holds no encoder, IntegrityError where it holds a damaged one.
    """
    files = EncoderFiles.open(folder)
    if is_whole(store, files.encoder_id):
        return files.encoder_id
    # What was there may be of another export of the same encoder: no reader may see a mixture of both.
    store.delete(encoder_key(files.encoder_id))
    for name in [*files.manifest["files"], MANIFEST]:
        store.put_file(folder / name, encoder_key(files.encoder_id, name))
    return files.encoder_id


def is_whole(store: Store, encoder_id: str) -> bool:
    """Whether every file that the encoder's encoder.json lists is there, byte by byte."""
    try:
        listed = encoder_manifest(store, encoder_id)["files"]
    except SamestyleError:
        return False
    keys = {encoder_key(encoder_id, name): entry["sha256"] for name, entry in listed.items()}
    return all(store.exists(key) and store.digest(key)[0] == sha256 for key, sha256 in keys.items())


def list_encoders(store: Store) -> list[str]:
    """Ids of all encoders whose registration ended, sorted."""
    parts = (key.split("/") for key in store.list("encoders/"))
    return [part[1] for part in parts if len(part) == 3 and part[2] == MANIFEST]


def find_encoder(store: Store, prefix: str) -> str:
    """The one encoder whose id begins so. Raises UsageError for too short a prefix, for none and for several."""
    known = list_encoders(store)
    found = [prefix] if prefix in known else [name for name in known if name.startswith(prefix)]
    if len(found) == 1 and len(prefix) >= SHORTEST_PREFIX:
        return found[0]
    if len(prefix) < SHORTEST_PREFIX:
        raise UsageError(f"{prefix!r} is too short: give at least {SHORTEST_PREFIX} characters of the encoder's id")
    if found:
        raise UsageError(f"{prefix} is the beginning of {len(found)} encoders, {', '.join(found)}: give more of the id")
    raise UsageError(
        f"no encoder {prefix} in {store.uri}, which has {', '.join(known) or 'none yet'}: "
        "put an exported folder there with `samestyle encoders register FOLDER`"
    )


def encoder_manifest(store: Store, encoder_id: str) -> dict[str, Any]:
    """An encoder's encoder.json. Raises UsageError where there is none, IntegrityError where it cannot be read."""
    data = store.find(encoder_key(encoder_id))
    if data is None:
        raise UsageError(f"no encoder {encoder_id} in {store.uri}: `samestyle encoders list` shows all")
    try:
        manifest = json.loads(data)
        return {key: manifest[key] for key in ("encoder_id", "identity", "files")} | manifest
    except (ValueError, KeyError, TypeError) as error:
        raise IntegrityError(
            f"{encoder_key(encoder_id)} of {store.uri} cannot be read ({error!r}): register the encoder again"
        ) from error


def current_encoder(store: Store) -> str | None:
    """Id of the encoder that the next run uses, None in a new store."""
    return pointed_to(store.find(CURRENT))


def pointed_to(pointer: bytes | None) -> str | None:
    """What the bytes of `encoders/current` name. Raises IntegrityError."""
    try:
        return None if pointer is None else str(json.loads(pointer)["encoder_id"])
    except (ValueError, KeyError, TypeError) as error:
        raise IntegrityError(f"{CURRENT} holds {pointer!r}, expected the id of an encoder: promote one") from error


def wanted_encoder(store: Store, exported: Path, chosen: bool) -> str:
    """Id of the encoder that a new run uses: the exported one where it is `chosen` or the store is new, else current.

    Raises UsageError where there is none.
    """
    current = current_encoder(store)
    if current is not None and not chosen:
        return current
    if not (exported / MANIFEST).is_file():
        raise UsageError(f"no encoder in {store.uri}, and none at {exported}: run ./spark-submit.sh setup")
    return str(json.loads((exported / MANIFEST).read_text(encoding="utf-8"))["encoder_id"])


def wanted_manifest(store: Store, exported: Path, chosen: bool) -> dict[str, Any]:
    """encoder.json of the wanted_encoder: the store's, or the exported one's where it is not registered yet."""
    encoder_id = wanted_encoder(store, exported, chosen)
    if store.exists(encoder_key(encoder_id)):
        return encoder_manifest(store, encoder_id)
    return EncoderFiles.open(exported).manifest


def adopt_encoder(store: Store, exported: Path, encoder_id: str, chosen: bool) -> None:
    """Make the exported encoder the current one where a run has it `chosen`, or where the store has none yet.

    Else nothing: what was promoted since the run looked is for the next run. Another encoder means other vectors: the
    night embeds the whole catalogue anew, beside those that are there, unless `backfill` has.
    """
    pointer = store.find(CURRENT)
    if pointed_to(pointer) != encoder_id and (chosen or pointer is None):
        register(store, exported)
        store.swap(CURRENT, pointer, point_to(encoder_id))


def point_to(encoder_id: str, forced: str | None = None) -> bytes:
    """The bytes of `encoders/current` that name an encoder, with the reason where its promotion was forced."""
    return json.dumps({"encoder_id": encoder_id} | ({"forced": forced} if forced else {})).encode()


def record_evaluation(
    store: Store, encoder_id: str, name: str, result: dict[str, Any], queries: bytes | None = None
) -> None:
    """Keep what was measured under a name of letters, digits, `_`, `.` and `-`; the same name again replaces it.

    queries: a Parquet file of the results of each query. Adds `recorded_at`. Raises UsageError for an encoder that is
    not there, and for another name.
    """
    encoder_manifest(store, encoder_id)
    if not EVALUATION_NAME.fullmatch(name):
        raise UsageError(f"{name!r} cannot name an evaluation: use letters, digits, `_`, `.` and `-`, at most 180")
    if queries is not None:
        store.put(encoder_key(encoder_id, f"evaluations/{name}.parquet"), queries)
    record = {**result, "recorded_at": datetime.now(UTC).isoformat()}
    store.put(encoder_key(encoder_id, f"evaluations/{name}.json"), json.dumps(record, indent=2).encode() + b"\n")


def evaluations(store: Store, encoder_id: str) -> dict[str, dict[str, Any]]:
    """Name to what was recorded of an encoder, oldest first. Raises IntegrityError where one cannot be read."""
    prefix = f"encoders/{encoder_id}/evaluations/"
    keys = [key for key in store.list(prefix) if key.endswith(".json")]
    found = {key.removeprefix(prefix).removesuffix(".json"): read_record(store, key) for key in keys}
    return dict(sorted(found.items(), key=lambda one: str(one[1].get("recorded_at", ""))))


def evaluation_queries(store: Store, encoder_id: str, name: str) -> bytes | None:
    """The Parquet file of an evaluation's queries, None where none was recorded."""
    return store.find(encoder_key(encoder_id, f"evaluations/{name}.parquet"))


def read_record(store: Store, key: str) -> dict[str, Any]:
    """A JSON object of ours. Raises IntegrityError where it is none."""
    try:
        record = json.loads(store.get(key))
    except ValueError as error:
        raise IntegrityError(f"{key} of {store.uri} is no JSON ({error}): remove it and record it again") from error
    if not isinstance(record, dict):
        raise IntegrityError(f"{key} of {store.uri} holds {record!r}, expected an object: record it again")
    return record


def local_copy(store: Store, encoder_id: str) -> Path:
    """The encoder's folder on this host, fetched once; processes of one user share it."""
    folder = private_folder() / encoder_id
    if folder.is_dir():
        return folder
    # Without evaluations, which come and go: a copy holds what encoder.json lists, and never changes.
    keys = {name: encoder_key(encoder_id, name) for name in [*encoder_manifest(store, encoder_id)["files"], MANIFEST]}
    partial = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{encoder_id}-"))
    for name, key in keys.items():
        target = partial / name
        target.parent.mkdir(parents=True, exist_ok=True)
        store.get_file(key, target)
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
