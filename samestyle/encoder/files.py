"""The folder that an encoder lives in: encoder.json names every other file with its SHA-256."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from samestyle.encoder.sources import file_digest
from samestyle.errors import IntegrityError, UsageError

FORMAT_VERSION = 1
MANIFEST = "encoder.json"
# Of every kind, and of each alone.
COMMON_FILES = ("card.md", "golden.json", "image.onnx", "text.onnx", "tokenizer.json")
KINDS: dict[str, tuple[str, ...]] = {
    "late_fusion": (),
    "unified": ("fusion.onnx", "fusion.safetensors"),
    "dual_stream": (),
}
HEAD_FILES = ("head.onnx", "head.safetensors")


@dataclass(frozen=True)
class EncoderFiles:
    """An encoder's folder and its parsed encoder.json."""

    folder: Path
    manifest: dict[str, Any]

    @classmethod
    def open(cls, folder: Path) -> "EncoderFiles":
        """Read and verify `folder`: every file by SHA-256, the encoder_id by what it is a digest of.

        Raises UsageError where there is no encoder, IntegrityError where a file is not what encoder.json
        says.
        """
        files = cls(folder, _read_manifest(folder))
        files._check_identity()
        for name, entry in files.manifest["files"].items():
            files._check_file(name, entry["sha256"])
        return files

    @property
    def encoder_id(self) -> str:
        return self.manifest["encoder_id"]

    @property
    def kind(self) -> str:
        return self.manifest["identity"]["kind"]

    @property
    def has_head(self) -> bool:
        """Whether a dual_stream joins its sides by a trained head; the plain sum otherwise."""
        return self.manifest["identity"].get("head") is not None

    @property
    def required(self) -> tuple[str, ...]:
        """Names of the files that an encoder of this kind cannot do without."""
        return COMMON_FILES + KINDS[self.kind] + (HEAD_FILES if self.has_head else ())

    def path(self, name: str) -> Path:
        """Path of a file that encoder.json lists, and `open` has verified."""
        if name not in self.manifest["files"]:
            raise IntegrityError(f"{self.folder} does not list {name} in {MANIFEST}; export the encoder again")
        return self.folder / name

    def _check_identity(self) -> None:
        wanted, found = self.encoder_id, identity_digest(self.manifest["identity"])
        if wanted != found:
            raise IntegrityError(
                f"{self.folder / MANIFEST} says encoder_id {wanted}, its content gives {found}; "
                "export the encoder again"
            )
        kind = self.manifest["identity"].get("kind")
        if kind not in KINDS:
            raise IntegrityError(
                f"{self.folder / MANIFEST} is of kind {kind!r}, this version knows {', '.join(KINDS)}; update samestyle"
            )
        missing = sorted(set(self.required) - set(self.manifest["files"]))
        if missing:
            raise IntegrityError(f"{self.folder / MANIFEST} lists no {', '.join(missing)}; export the encoder again")

    def _check_file(self, name: str, wanted: str) -> None:
        relative = PurePosixPath(name)
        if relative.is_absolute() or ".." in relative.parts:
            raise IntegrityError(f"{self.folder / MANIFEST} names {name}, which lies outside its folder")
        path = self.folder / name
        found = file_digest(path) if path.is_file() else "no file"
        if found != wanted:
            raise IntegrityError(
                f"{path} is damaged: sha256 expected {wanted}, found {found}; fetch or export the encoder again"
            )


def identity_digest(identity: dict[str, Any]) -> str:
    """The encoder_id: 16 hexadecimal digits over what decides a vector, whoever wrote the graphs."""
    canonical = json.dumps(identity, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def write_manifest(folder: Path, identity: dict[str, Any], about: dict[str, Any]) -> str:
    """Write encoder.json over all files that lie in `folder`, and return the encoder_id."""
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    files = {name: {"sha256": file_digest(folder / name), "bytes": (folder / name).stat().st_size} for name in names}
    manifest = {
        "format_version": FORMAT_VERSION,
        "encoder_id": identity_digest(identity),
        "identity": identity,
        **about,
        "files": files,
    }
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    return manifest["encoder_id"]


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    if not path.is_file():
        raise UsageError(
            f"no encoder in {folder}: expected {MANIFEST}, found none; "
            f"make one with: python -m samestyle.encoder.export {folder}"
        )
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        version = manifest["format_version"]
        if version == FORMAT_VERSION:
            return {key: manifest[key] for key in ("encoder_id", "identity", "files")} | manifest
    except (ValueError, KeyError, TypeError) as error:
        raise IntegrityError(f"{path} cannot be read ({error!r}); fetch or export the encoder again") from error
    raise IntegrityError(f"{path} has format_version {version}, this version reads {FORMAT_VERSION}; update samestyle")
