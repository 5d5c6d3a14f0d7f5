"""A training that was interrupted goes on where it was: weights, optimiser and history in one file, written whole."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from samestyle.errors import IntegrityError

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Checkpoint:
    """`tensors` by name; `state`, JSON, says what else there is to know, such as the next step."""

    tensors: Tensors
    state: dict[str, Any]

    def write(self, path: Path) -> None:
        """At once or not at all, so that a kill in the middle leaves the former file."""
        partial = path.with_suffix(f".{os.getpid()}.tmp")
        contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in self.tensors.items()}
        save_file(contiguous, partial, {"state": json.dumps(self.state)})
        with open(partial, "rb") as file:
            os.fsync(file.fileno())
        partial.replace(path)

    @classmethod
    def read(cls, path: Path) -> "Checkpoint":
        """Raises IntegrityError for anything but a file that `write` wrote; nothing in it is ever executed."""
        try:
            with safe_open(path, "pt") as file:
                state = json.loads((file.metadata() or {})["state"])
                return cls({name: file.get_tensor(name) for name in file.keys()}, state)  # noqa: SIM118
        except Exception as error:  # safetensors has its own class for what is damaged or foreign
            raise IntegrityError(
                f"{path} is no checkpoint ({type(error).__name__}: {error}), expected safetensors of this training: "
                "remove it, and training begins again"
            ) from error

    def part(self, name: str, wanted: Tensors, path: Path) -> Tensors:
        """The tensors under `<name>.`, which must be those of `wanted` by name and shape. Raises IntegrityError."""
        prefix = f"{name}."
        found = {key.removeprefix(prefix): value for key, value in self.tensors.items() if key.startswith(prefix)}
        for key in sorted(wanted.keys() | found.keys()):
            expected, given = shape_of(wanted.get(key)), shape_of(found.get(key))
            if expected != given:
                raise IntegrityError(
                    f"{path}: tensor {prefix}{key} is {given}, expected {expected}; it belongs to another training: "
                    "remove it, and training begins again"
                )
        return found


def shape_of(tensor: Tensor | None) -> str:
    return "missing" if tensor is None else str(tuple(tensor.shape))


def optimiser_tensors(model: nn.Module, optimiser: Optimizer) -> Tensors:
    """The optimiser's moments and step counts, as `<parameter>.<what>`; none of a parameter that no loss reaches."""
    return {
        f"{name}.{key}": value
        for name, parameter in model.named_parameters()
        for key, value in optimiser.state.get(parameter, {}).items()
    }


def fill_optimiser(model: nn.Module, optimiser: Optimizer, saved: Checkpoint, path: Path) -> None:
    """The reverse; state["stepped"] names the parameters that have moments. Raises IntegrityError where these are not
    there, or of other shapes."""
    stepped = {name: model.get_parameter(name) for name in saved.state["stepped"]}
    wanted: Tensors = {}
    for name, parameter in stepped.items():
        moments = {"exp_avg": parameter, "exp_avg_sq": parameter, "step": parameter.new_zeros(())}
        wanted |= {f"{name}.{key}": like for key, like in moments.items()}
    found = saved.part("optimiser", wanted, path)
    for name, parameter in stepped.items():
        state = {key: found[f"{name}.{key}"] for key in ("step", "exp_avg", "exp_avg_sq")}
        # AdamW keeps its step counts on the CPU.
        optimiser.state[parameter] = {k: v if k == "step" else v.to(parameter.device) for k, v in state.items()}
