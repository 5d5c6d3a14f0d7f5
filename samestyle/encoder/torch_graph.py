"""An encoder's ONNX graph as a torch module, for devices that torch knows and ONNX Runtime on the CPU does not."""

from pathlib import Path
from typing import Any, NamedTuple

import onnx
import torch
from torch import Tensor, nn

from samestyle.encoder.torch_ops import OPERATORS, Operator, tensor_of
from samestyle.errors import UsageError


class Step(NamedTuple):
    """One node: which values it takes, which one it makes, and which nobody needs after it."""

    operator: Operator
    attributes: dict[str, Any]
    inputs: list[str]
    output: str
    done_with: list[str]


class TorchGraph(nn.Module):
    """The network of an ONNX file: the same inputs and outputs, as tensors on the module's device.

    widths: (dim,) of the vectors, the first output, and, where there is a second one, (dim, width of the tokens).
    """

    def __init__(self, path: Path) -> None:
        """Raises UsageError for an operator that has no torch form here."""
        super().__init__()
        graph = onnx.load(path).graph
        unknown = sorted({node.op_type for node in graph.node} - set(OPERATORS))
        if unknown:
            raise UsageError(
                f"{path} uses {', '.join(unknown)}, which the GPU path does not know: encode it with encoder.device=cpu"
            )
        self.widths = [int(node.type.tensor_type.shape.dim[-1].dim_value) for node in graph.output]
        self._inputs = [node.name for node in graph.input]
        self._outputs = [node.name for node in graph.output]
        constants = {tensor.name: tensor_of(tensor) for tensor in graph.initializer}
        self._steps = self._planned(list(graph.node), constants)
        self._host = {name: value for name, value in constants.items() if stays_on_host(value)}
        self._names = [name for name in constants if name not in self._host]
        for number, name in enumerate(self._names):
            value = constants[name]
            layout = torch.channels_last if value.ndim == 4 else torch.contiguous_format
            self.register_buffer(f"constant_{number}", value.contiguous(memory_format=layout))

    def _planned(self, nodes: list[onnx.NodeProto], constants: dict[str, Tensor]) -> list[Step]:
        """What there is to do for every batch; what hangs on nothing but constants is done now, and added to them."""
        steps: list[Step] = []
        for node in nodes:
            attributes = {one.name: onnx.helper.get_attribute_value(one) for one in node.attribute}
            step = Step(OPERATORS[node.op_type], attributes, list(node.input), node.output[0], [])
            if all(name in constants for name in step.inputs if name):
                constants[step.output] = applied(step, constants)
            else:
                steps.append(step)
        used = {*self._outputs, *(name for step in steps for name in step.inputs)}
        for name in set(constants) - used:
            del constants[name]
        kept = {*self._outputs, *constants}
        for step in reversed(steps):  # the last one to take a value lets go of it
            step.done_with.extend({*step.inputs} - kept - {""})
            kept |= {*step.inputs}
        return steps

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        values = self._host | {name: self.get_buffer(f"constant_{i}") for i, name in enumerate(self._names)}
        values |= dict(zip(self._inputs, inputs, strict=True))
        for step in self._steps:
            values[step.output] = applied(step, values)
            for name in step.done_with:
                del values[name]
        return tuple(values[name] for name in self._outputs)


def applied(step: Step, values: dict[str, Tensor]) -> Tensor:
    return step.operator(step.attributes, *(values[name] if name else None for name in step.inputs))


def stays_on_host(constant: Tensor) -> bool:
    """Numbers alone, sizes and axes: the device would have to be asked for them."""
    return constant.ndim == 0 or (constant.ndim == 1 and not constant.is_floating_point())
