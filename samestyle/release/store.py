"""Where releases live: bytes under keys, and a compare-and-swap for the few keys that ever change.

Keys are relative posix paths such as `objects/<sha256>.hnsw`.
"""

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import shutil
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, BinaryIO
from urllib.parse import unquote, urlsplit

from samestyle.errors import ConflictError, IntegrityError, SamestyleError, UsageError

TEMPORARY = ".tmp-"
LOCKS = ".locks"
BLOCK = 2**20
MAX_OBJECT_BYTES = 2**42
# A part may not start with a dot: that rules out "." and "..", and keeps our temporary and lock names apart.
KEY_PART = re.compile(r"[^./\\\x00-\x1f\x7f][^/\\\x00-\x1f\x7f]{0,199}")
SHA256 = re.compile(r"[0-9a-f]{64}")
SUFFIX = re.compile(r"(\.[a-z0-9]{1,16})*")


class StoreError(SamestyleError):
    """The store cannot be read or written: no room, no permission, a broken disk."""


class MissingObjectError(StoreError):
    """Nothing is stored under this key."""


@dataclass(frozen=True)
class ObjectRef:
    """A content-addressed object: its key is objects/<sha256><suffix>, `bytes` its size."""

    key: str
    sha256: str
    bytes: int

    def __post_init__(self) -> None:
        if not SHA256.fullmatch(self.sha256):
            raise IntegrityError(f"object sha256 is {self.sha256!r}, expected 64 hexadecimal digits")
        prefix = f"objects/{self.sha256}"
        if not self.key.startswith(prefix) or not SUFFIX.fullmatch(self.key[len(prefix) :]):
            raise IntegrityError(f"object key is {self.key!r}, expected {prefix} and a suffix such as .hnsw")
        if not 0 <= self.bytes <= MAX_OBJECT_BYTES:
            raise IntegrityError(
                f"object {self.key} is said to have {self.bytes} bytes, expected 0 to {MAX_OBJECT_BYTES}"
            )


def check_key(key: str) -> str:
    """The key itself. Raises UsageError if it could leave the store or hide in it."""
    parts = key.split("/")
    if len(key) > 900 or not all(KEY_PART.fullmatch(part) for part in parts):
        raise UsageError(
            f"{key!r} is no key: expected parts joined by `/`, none empty or starting with a dot, "
            "without backslashes and control characters"
        )
    return key


def known_suffix(path: Path) -> str:
    """The file's suffix where an object's key may have it, else nothing."""
    return path.suffix if SUFFIX.fullmatch(path.suffix) else ""


def digest_stream(stream: IO[bytes]) -> tuple[str, int]:
    """(sha256 in hex, number of bytes) of all that is left in `stream`."""
    digest, size = hashlib.sha256(), 0
    while block := stream.read(BLOCK):
        digest.update(block)
        size += len(block)
    return digest.hexdigest(), size


def digest_file(path: str | Path) -> tuple[str, int]:
    """(sha256 in hex, number of bytes) of a local file."""
    with reporting(path), open(path, "rb") as stream:
        return digest_stream(stream)


@contextlib.contextmanager
def reporting(path: str | Path) -> Iterator[None]:
    """Turn the operating system's errors into ours, with the path and the way out."""
    try:
        yield
    except FileNotFoundError as error:
        raise MissingObjectError(f"{error.filename or path} is not there") from error
    except OSError as error:
        raise StoreError(explain(error, path)) from error


def explain(error: OSError, path: str | Path) -> str:
    where = error.filename or path
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"no room left to write {where}: free some, perhaps by `samestyle releases gc --delete`"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"no permission for {where} as user {os.getuid()}: change its mode, or choose another folder"
    return f"cannot use {where}: {error.strerror or error}"


class Store(ABC):
    """Bytes under keys. Every method raises StoreError for trouble below, UsageError for a bad key."""

    @property
    @abstractmethod
    def uri(self) -> str:
        """What `open_store` takes to open this store again."""

    @abstractmethod
    def open(self, key: str) -> BinaryIO:
        """A readable stream. Raises MissingObjectError."""

    @abstractmethod
    def put(self, key: str, data: bytes) -> None:
        """Write or overwrite, at once or not at all."""

    @abstractmethod
    def put_file(self, path: str | Path, key: str) -> None:
        """Like `put`, from a local file of any size."""

    @abstractmethod
    def size(self, key: str) -> int:
        """Number of bytes. Raises MissingObjectError."""

    @abstractmethod
    def modified_at(self, key: str) -> float:
        """Seconds since 1970 of the last write or `touch`. Raises MissingObjectError."""

    @abstractmethod
    def touch(self, key: str) -> None:
        """Make the object count as just written, so that it is no garbage while a build counts on it."""

    @abstractmethod
    def list(self, prefix: str = "") -> Iterator[str]:
        """All keys that start with `prefix`, sorted."""

    @abstractmethod
    def delete(self, key: str) -> None:
        """Remove; nothing happens if it is not there."""

    @abstractmethod
    def swap(self, key: str, expected: bytes | None, new: bytes) -> None:
        """Replace `expected` by `new` in one step; None stands for "not there".

        Raises ConflictError, naming what was found and what was expected, if somebody else was first.
        """

    @abstractmethod
    def sweep(self, before: float) -> int:
        """Remove what killed writers left half written before that time (since 1970); returns how many."""

    def get(self, key: str) -> bytes:
        """The whole object, for small ones. Raises MissingObjectError."""
        with self.open(key) as stream, reporting(key):
            return stream.read()

    def find(self, key: str) -> bytes | None:
        """Like `get`, None if it is not there."""
        try:
            return self.get(key)
        except MissingObjectError:
            return None

    def get_file(self, key: str, path: str | Path) -> None:
        """Copy an object to a local file; what a failure leaves there is the caller's to remove."""
        with self.open(key) as stream, reporting(path), open(path, "wb") as target:
            shutil.copyfileobj(stream, target, BLOCK)

    def get_object(self, ref: ObjectRef, path: str | Path) -> None:
        """Like `get_file`, for an object. Raises IntegrityError where its bytes are not its name's."""
        self.get_file(ref.key, path)
        found = digest_file(path)
        if found != (ref.sha256, ref.bytes):
            raise IntegrityError(
                f"{ref.key} of {self.uri} has sha256 {found[0]} and {found[1]} bytes, expected {ref.bytes}: "
                "it is damaged and not opened; delete it and build again, or serve another release"
            )

    def digest(self, key: str) -> tuple[str, int]:
        """(sha256 in hex, number of bytes) as stored now. Raises MissingObjectError."""
        with self.open(key) as stream, reporting(key):
            return digest_stream(stream)

    def exists(self, key: str) -> bool:
        """True if something is stored under this key."""
        try:
            self.size(key)
        except MissingObjectError:
            return False
        return True

    def put_object(self, path: str | Path, suffix: str) -> ObjectRef:
        """Store a local file under its own digest; nothing is written if it is there already."""
        sha256, size = digest_file(path)
        ref = ObjectRef(f"objects/{sha256}{suffix}", sha256, size)
        if self.exists(ref.key) and self.size(ref.key) == size:
            self.touch(ref.key)
        else:
            self.put_file(path, ref.key)
        return ref

    def put_folder(self, folder: str | Path) -> dict[str, ObjectRef]:
        """Store every file below a folder as an object; returns them by their paths below it."""
        files = sorted(path for path in Path(folder).rglob("*") if path.is_file())
        return {path.relative_to(folder).as_posix(): self.put_object(path, known_suffix(path)) for path in files}


class LocalStore(Store):
    """A folder. Writes go to a temporary file beside, are synced and renamed; swaps hold a file lock."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root).absolute()

    def __repr__(self) -> str:
        return f"LocalStore({str(self.root)!r})"

    @property
    def uri(self) -> str:
        return str(self.root)

    def path(self, key: str) -> Path:
        """Where the object lies. Raises UsageError for a bad key."""
        return self.root / check_key(key)

    def open(self, key: str) -> BinaryIO:
        with reporting(self.path(key)):
            return open(self.path(key), "rb")

    def put(self, key: str, data: bytes) -> None:
        with self.writing(key) as target:
            target.write(data)

    def put_file(self, path: str | Path, key: str) -> None:
        with reporting(path), open(path, "rb") as source, self.writing(key) as target:
            shutil.copyfileobj(source, target, BLOCK)

    def size(self, key: str) -> int:
        with reporting(self.path(key)):
            return self.path(key).stat().st_size

    def modified_at(self, key: str) -> float:
        with reporting(self.path(key)):
            return self.path(key).stat().st_mtime

    def touch(self, key: str) -> None:
        with reporting(self.path(key)):
            os.utime(self.path(key))

    def list(self, prefix: str = "") -> Iterator[str]:
        found = []
        for folder, subfolders, files in os.walk(self.root / prefix.rpartition("/")[0]):
            subfolders[:] = [name for name in subfolders if not name.startswith(".")]
            base = Path(folder).relative_to(self.root)
            found += [(base / name).as_posix() for name in files if not name.startswith(".")]
        return iter(sorted(key for key in found if key.startswith(prefix)))

    def delete(self, key: str) -> None:
        path = self.path(key)
        with reporting(path):
            path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # a folder that still holds something stays
            path.parent.rmdir()

    def swap(self, key: str, expected: bytes | None, new: bytes) -> None:
        with self.locked(key):
            found = self.find(key)
            if found != expected:
                raise moved_on(key, found, expected)
            self.put(key, new)

    def sweep(self, before: float) -> int:
        old = [path for path in self.root.rglob(f"{TEMPORARY}*") if path.is_file() and path.stat().st_mtime < before]
        for path in old:
            with reporting(path):
                path.unlink(missing_ok=True)
        return len(old)

    @contextlib.contextmanager
    def writing(self, key: str) -> Iterator[IO[bytes]]:
        """A stream whose bytes appear under `key` when the block ends, and not at all if it raises."""
        path = self.path(key)
        with reporting(path):
            descriptor, temporary = self.open_temporary(path.parent)
            try:
                with os.fdopen(descriptor, "wb") as target:
                    yield target
                    target.flush()
                    os.fsync(target.fileno())
                os.replace(temporary, path)
                sync_folder(path.parent)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise

    def open_temporary(self, folder: Path) -> tuple[int, Path]:
        temporary = folder / f"{TEMPORARY}{uuid.uuid4().hex}"
        for attempt in range(3):
            make_folders(folder)
            try:
                return os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644), temporary
            except FileNotFoundError:  # a delete has just removed the folder that became empty
                if attempt == 2:
                    raise
                time.sleep(0.01)
        raise AssertionError("unreachable")

    @contextlib.contextmanager
    def locked(self, key: str) -> Iterator[None]:
        """Hold the key's lock file; the operating system drops it with the process."""
        path = self.root / LOCKS / check_key(key).replace("%", "%25").replace("/", "%2F")
        with reporting(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(path, "ab") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                yield


def make_folders(folder: Path) -> None:
    """Create a folder with its parents so that all of them outlive a power cut."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    for path in reversed(missing):
        path.mkdir(exist_ok=True)
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """A rename outlives a power cut only once its folder is on disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def moved_on(key: str, found: bytes | None, expected: bytes | None) -> ConflictError:
    """What `swap` raises where somebody else was first."""
    return ConflictError(
        f"{key} was changed by somebody else: found {shorten(found)}, expected {shorten(expected)}; "
        "look at what it names now and start again from there"
    )


def shorten(value: bytes | None, length: int = 200) -> str:
    if value is None:
        return "nothing"
    text = value.decode("utf-8", "replace")
    return text if len(text) <= length else f"{text[:length]}... ({len(value)} bytes)"


def open_store(uri: str | Path) -> Store:
    """Open the store at a path, a file:// URI or s3://bucket/prefix; the folder need not be there yet.

    Raises UsageError.
    """
    text = str(uri)
    scheme = urlsplit(text).scheme if "://" in text else ""
    if not scheme:
        return LocalStore(text)
    if scheme == "s3":
        from samestyle.release.s3 import open_s3  # whoever has a folder needs no boto3

        return open_s3(text)
    if scheme != "file":
        raise UsageError(
            f"{text}: a store is a folder, file:///folder or s3://bucket/prefix, not {scheme}://; "
            "docs/operations.md says what to do on other file systems"
        )
    parts = urlsplit(text)
    if parts.netloc not in ("", "localhost"):
        raise UsageError(f"{text} names the host {parts.netloc!r}: write file:///path with three slashes")
    return LocalStore(unquote(parts.path))
