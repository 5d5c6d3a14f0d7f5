"""ONNX operators as torch functions: those, of opset 17, that the graphs of our encoders are made of.

Each takes the node's attributes, then its inputs, None where an optional one is left out. What stands for a shape, an
axis or an index is a small tensor on the host, so that nothing waits for the device in order to know a size.
"""

from collections.abc import Callable, Mapping, Sequence
from math import ceil, prod
from typing import Any

import torch
from onnx import numpy_helper
from onnx.helper import tensor_dtype_to_np_dtype
from torch import Tensor
from torch.nn import functional as F

Attributes = Mapping[str, Any]
Operator = Callable[..., Tensor]


def tensor_of(value: Any) -> Tensor:
    """A TensorProto as a tensor on the host."""
    return torch.from_numpy(numpy_helper.to_array(value).copy())


def aligned(*tensors: Tensor) -> tuple[Tensor, ...]:
    """All on the device that one of them is on; numbers alone may stay where they are."""
    devices = [tensor.device for tensor in tensors if tensor.device.type != "cpu"]
    if not devices:
        return tensors
    return tuple(tensor if tensor.ndim == 0 else tensor.to(devices[0], non_blocking=True) for tensor in tensors)


def exact(x: Tensor) -> Tensor:
    """Sums over many numbers lose too much in 16 bits."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def elementwise(function: Callable[..., Tensor]) -> Operator:
    return lambda attributes, *inputs: function(*aligned(*inputs))


def axes_of(attributes: Attributes, axes: Tensor | None = None) -> list[int]:
    """Opset 17 has some operators' axes as an attribute, others' as an input."""
    return [int(axis) for axis in (attributes.get("axes", ()) if axes is None else axes.tolist())]


def divide(attributes: Attributes, a: Tensor, b: Tensor) -> Tensor:
    a, b = aligned(a, b)
    return torch.div(a, b, rounding_mode=None if a.is_floating_point() else "trunc")


def modulo(attributes: Attributes, a: Tensor, b: Tensor) -> Tensor:
    return (torch.fmod if attributes.get("fmod") else torch.remainder)(*aligned(a, b))


def cast(attributes: Attributes, x: Tensor) -> Tensor:
    return x.to(torch.from_numpy(tensor_dtype_to_np_dtype(attributes["to"]).type([0])).dtype)


def clip(attributes: Attributes, x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
    return torch.clamp(x, *(None if bound is None else bound.item() for bound in (low, high)))


def reduced(function: Callable[..., Tensor]) -> Operator:
    def reduce(attributes: Attributes, x: Tensor, axes: Tensor | None = None) -> Tensor:
        wanted = axes_of(attributes, axes) or list(range(x.ndim))
        return function(exact(x), dim=wanted, keepdim=bool(attributes.get("keepdims", 1)))

    return reduce


def layer_norm(attributes: Attributes, x: Tensor, scale: Tensor, bias: Tensor | None = None) -> Tensor:
    return F.layer_norm(x, x.shape[attributes.get("axis", -1) :], scale, bias, attributes.get("epsilon", 1e-5))


def gemm(attributes: Attributes, a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
    a = a.T if attributes.get("transA") else a
    b = b.T if attributes.get("transB") else b
    product = attributes.get("alpha", 1.0) * (a @ b)
    return product if c is None else product + attributes.get("beta", 1.0) * c


def convolution(attributes: Attributes, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """In two dimensions."""
    stride, dilation = attributes.get("strides", [1, 1]), attributes.get("dilations", [1, 1])
    x = F.pad(x, paddings(attributes, x.shape[2:], weight.shape[2:], stride, dilation))
    return F.conv2d(x, weight, bias, stride, 0, dilation, attributes.get("group", 1))


def paddings(
    attributes: Attributes, size: Sequence[int], kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]
) -> list[int]:
    """As F.pad takes them, the last axis first: (before, after) each."""
    mode = attributes.get("auto_pad", b"NOTSET").decode()
    if not mode.startswith("SAME"):
        return as_torch_pads(attributes.get("pads", [0] * 4))
    totals = [
        max((ceil(n / s) - 1) * s + (k - 1) * d + 1 - n, 0)
        for n, k, s, d in zip(size, kernel, stride, dilation, strict=True)
    ]
    less, more = [total // 2 for total in totals], [total - total // 2 for total in totals]
    return as_torch_pads(less + more if mode == "SAME_UPPER" else more + less)


def as_torch_pads(pads: Sequence[int]) -> list[int]:
    """All starts, then all ends, first axis first -> (start, end) of each axis, last axis first."""
    half = len(pads) // 2
    return [pads[i + side] for i in reversed(range(half)) for side in (0, half)]


def pad(attributes: Attributes, x: Tensor, pads: Tensor, value: Tensor | None = None) -> Tensor:
    mode = attributes.get("mode", b"constant").decode()
    return F.pad(x, as_torch_pads(pads.tolist()), mode, value.item() if mode == "constant" and value is not None else 0)


def average_pool(attributes: Attributes, x: Tensor) -> Tensor:
    """In two dimensions, without padding."""
    kernel, stride = attributes["kernel_shape"], attributes.get("strides", [1, 1])
    return F.avg_pool2d(exact(x), kernel, stride, ceil_mode=bool(attributes.get("ceil_mode")))


def reshape(attributes: Attributes, x: Tensor, shape: Tensor) -> Tensor:
    sizes = shape.tolist()
    if not attributes.get("allowzero"):
        sizes = [x.shape[axis] if size == 0 else size for axis, size in enumerate(sizes)]
    return x.reshape(sizes)


def expand(attributes: Attributes, x: Tensor, shape: Tensor) -> Tensor:
    return x.expand(torch.broadcast_shapes(x.shape, shape.tolist()))


def part(
    attributes: Attributes,
    x: Tensor,
    starts: Tensor,
    ends: Tensor,
    axes: Tensor | None = None,
    steps: Tensor | None = None,
) -> Tensor:
    begins = starts.tolist()
    along = range(len(begins)) if axes is None else axes.tolist()
    by = [1] * len(begins) if steps is None else steps.tolist()
    for axis, begin, end, step in zip(along, begins, ends.tolist(), by, strict=True):
        if step > 0:
            x = x[(slice(None),) * (axis % x.ndim) + (slice(begin, end, step),)]
        else:  # which torch's slices do not know
            x = x.index_select(axis, torch.tensor(range(x.shape[axis])[begin:end:step], device=x.device))
    return x


def unsqueeze(attributes: Attributes, x: Tensor, axes: Tensor) -> Tensor:
    rank = x.ndim + axes.numel()
    for axis in sorted(axis % rank for axis in axes.tolist()):
        x = x.unsqueeze(axis)
    return x


def squeeze(attributes: Attributes, x: Tensor, axes: Tensor | None = None) -> Tensor:
    return x.squeeze() if axes is None else x.squeeze(axes.tolist())


def gather(attributes: Attributes, x: Tensor, indices: Tensor) -> Tensor:
    if x.device.type == "cpu":  # the other way round torch moves the indices itself
        x = x.to(indices.device)
    return x[(slice(None),) * (attributes.get("axis", 0) % x.ndim) + (indices,)]


def gather_elements(attributes: Attributes, x: Tensor, indices: Tensor) -> Tensor:
    x, indices = aligned(x, indices)
    return torch.gather(x, attributes.get("axis", 0), indices)


def scatter(attributes: Attributes, x: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
    x = x.clone()
    x[indices.unbind(-1)] = updates
    return x


def shape_of(attributes: Attributes, x: Tensor) -> Tensor:
    return torch.tensor(x.shape[attributes.get("start", 0) : attributes.get("end")])


def filled(attributes: Attributes, shape: Tensor) -> Tensor:
    value = tensor_of(attributes["value"]) if "value" in attributes else torch.zeros(1)
    return value.reshape(()).expand(shape.tolist()).clone()


def triangle(attributes: Attributes, x: Tensor, diagonal: Tensor | None = None) -> Tensor:
    k = 0 if diagonal is None else int(diagonal.item())
    return x.triu(k) if attributes.get("upper", 1) else x.tril(k)


def argmax(attributes: Attributes, x: Tensor) -> Tensor:
    return x.argmax(attributes.get("axis", 0), bool(attributes.get("keepdims", 1)))


def flatten(attributes: Attributes, x: Tensor) -> Tensor:
    return x.reshape(prod(x.shape[: attributes.get("axis", 1)]), -1)


OPERATORS: dict[str, Operator] = {
    "Add": elementwise(torch.add),
    "And": elementwise(torch.logical_and),
    "ArgMax": argmax,
    "AveragePool": average_pool,
    "Cast": cast,
    "Clip": clip,
    "Concat": lambda attributes, *parts: torch.cat(aligned(*parts), attributes["axis"]),
    "Constant": lambda attributes: tensor_of(attributes["value"]),
    "ConstantOfShape": filled,
    "Conv": convolution,
    "Div": divide,
    "Einsum": lambda attributes, *inputs: torch.einsum(attributes["equation"].decode(), *inputs),
    "Equal": elementwise(torch.eq),
    "Erf": elementwise(torch.erf),
    "Expand": expand,
    "Flatten": flatten,
    "Gather": gather,
    "GatherElements": gather_elements,
    "Gemm": gemm,
    "GlobalAveragePool": lambda attributes, x: exact(x).mean((2, 3), keepdim=True),
    "Greater": elementwise(torch.gt),
    "GreaterOrEqual": elementwise(torch.ge),
    "Identity": lambda attributes, x: x,
    "LayerNormalization": layer_norm,
    "MatMul": elementwise(torch.matmul),
    "Mod": modulo,
    "Mul": elementwise(torch.mul),
    "Pad": pad,
    "Pow": elementwise(torch.pow),
    "Range": lambda attributes, start, end, step: torch.arange(start.item(), end.item(), step.item()).to(start.dtype),
    "Reciprocal": elementwise(torch.reciprocal),
    "ReduceL2": reduced(torch.linalg.vector_norm),
    "ReduceMean": reduced(torch.mean),
    "ReduceSum": reduced(torch.sum),
    "Reshape": reshape,
    "ScatterND": scatter,
    "Shape": shape_of,
    "Sigmoid": elementwise(torch.sigmoid),
    "Slice": part,
    "Softmax": lambda attributes, x: torch.softmax(x, attributes.get("axis", -1)),
    "Sqrt": elementwise(torch.sqrt),
    "Squeeze": squeeze,
    "Sub": elementwise(torch.sub),
    "Tanh": elementwise(torch.tanh),
    "Tile": lambda attributes, x, repeats: x.repeat(repeats.tolist()),
    "Transpose": lambda attributes, x: x.permute(attributes.get("perm", tuple(reversed(range(x.ndim))))),
    "Trilu": triangle,
    "Unsqueeze": unsqueeze,
    "Where": elementwise(torch.where),
}
