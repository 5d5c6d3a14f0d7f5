"""Trained parts of an encoder as safetensors: tensors in fp16, shape and provenance as JSON in the metadata."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import fields
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from samestyle.encoder.fusion import Fusion, FusionShape
from samestyle.encoder.transform import metadata
from samestyle.errors import IntegrityError

WIDEST = 2**12  # a damaged file must not ask for more memory than there is


def save_fusion(fusion: Fusion, path: Path, about: Mapping[str, Any]) -> None:
    """Write a fusion; `about` (JSON) says what it was trained on."""
    save_weights(fusion, fusion.shape.to_dict(), path, about)


def load_fusion(path: Traversable) -> tuple[Fusion, dict[str, Any]]:
    """The fusion of a file, in float32 and for evaluation, and what it says about itself.

    Raises IntegrityError for what is no such file, or does not hold what its own shape demands.
    """
    shape, tensors, about = read_weights(path)
    return fill(Fusion(_fusion_shape(path, shape, len(tensors))), tensors, path), about


def rounded(fusion: Fusion) -> Fusion:
    """The fusion as its file would give it back: a copy in fp16 precision, frozen, for evaluation."""
    return fill(Fusion(fusion.shape), half(fusion), Path("the fusion"))


def half(module: nn.Module) -> dict[str, Tensor]:
    """The tensors in fp16, on the CPU."""
    return {name: tensor.detach().cpu().half().contiguous() for name, tensor in module.state_dict().items()}


def save_weights(module: nn.Module, shape: Mapping[str, Any], path: Path, about: Mapping[str, Any]) -> None:
    """Write a module's tensors in fp16. Raises IntegrityError where one is not finite, as fp16 holds at most 65504."""
    tensors = half(module)
    _check_finite(tensors, path)
    path.write_bytes(save(tensors, {"shape": json.dumps(shape), "about": json.dumps(about)}))


def read_weights(path: Traversable) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Any]]:
    """Shape, tensors and provenance of a file. Raises IntegrityError where it is none of ours."""
    data = path.read_bytes()
    try:
        tensors, header = load(data), metadata(data)
        return dict(json.loads(header["shape"])), tensors, dict(json.loads(header.get("about", "{}")))
    except Exception as error:  # safetensors raises its own class, and ValueError and others for foreign content
        raise IntegrityError(
            f"{path} holds no weights of this project ({error!r}): expected safetensors with the metadata `shape`, "
            f"found {data[:8]!r}...; a pickle is never opened: train or export it again"
        ) from error


def fill(module: nn.Module, tensors: Mapping[str, Tensor], path: Traversable) -> Any:
    """`module` with the tensors of `path` in float32, ready for evaluation.

    Raises IntegrityError for tensors that are missing, unknown, of another shape, or not finite.
    """
    wanted = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    for name in sorted(wanted.keys() | found.keys()):
        if wanted.get(name) != found.get(name):
            raise IntegrityError(
                f"{path}: tensor {name} is {found.get(name, 'missing')}, its shape demands "
                f"{wanted.get(name, 'no such tensor')}; train or export it again"
            )
    _check_finite(tensors, path)
    module.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
    return module.eval().requires_grad_(False)


def tensors_digest(modules: Iterable[nn.Module]) -> str:
    """SHA-256 (hex) over names, types, shapes and values of all tensors."""
    digest = hashlib.sha256()
    for module in modules:
        for name, tensor in sorted(module.state_dict().items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _check_finite(tensors: Mapping[str, Tensor], path: Traversable) -> None:
    for name, tensor in tensors.items():
        wrong = int((~torch.isfinite(tensor)).sum())
        if wrong:
            raise IntegrityError(
                f"{path}: {wrong} of {tensor.numel()} numbers of {name} are not finite, expected none; train it again"
            )


def _fusion_shape(path: Traversable, found: Mapping[str, Any], tensors: int) -> FusionShape:
    """Checked before anything of that size is made."""
    names = {field.name for field in fields(FusionShape)}
    numbers = [found.get(name) for name in sorted(names - {"residual_cap"})]
    cap = found.get("residual_cap")
    sound = (
        found.keys() == names
        and all(isinstance(number, int) and 0 < number <= WIDEST for number in numbers)
        and found["layers"] <= tensors
        and found["width"] % found["heads"] == 0
        and (cap is None or (isinstance(cap, int | float) and 0 < cap < float("inf")))
    )
    if not sound:
        raise IntegrityError(f"{path}: the shape is {dict(found)}, expected {FusionShape().to_dict()} or the like")
    return FusionShape(**found)
