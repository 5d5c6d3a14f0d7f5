"""Torch modules written as ONNX: the sizes that vary from call to call stay free."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from samestyle.encoder.fusion import Fusion

Axes = dict[int, str]  # the free ones, by name

OPSET = 17
ROWS, TOKENS = {0: "rows"}, {0: "rows", 1: "tokens"}


def write_image_graph(module: "torch.nn.Module", size: int, path: Path, tokens: bool = False) -> int:
    """Write a module over (n, size, size, 3) uint8, n free; with `tokens` it has a second output, (n, s, width).

    Returns the width of the vectors, the first output; so do the others.
    """
    import torch

    images = torch.zeros(2, size, size, 3, dtype=torch.uint8)
    return _write(module, {"images": (images, ROWS)}, {"half": ROWS} | ({"tokens": ROWS} if tokens else {}), path)


def write_text_graph(module: "torch.nn.Module", path: Path, tokens: bool = False) -> int:
    """Write a module over ids and mask (n, t) int64, both sizes free; with `tokens` as above, (n, t, width)."""
    import torch

    ones = torch.ones(2, 8, dtype=torch.int64)
    outputs = {"half": ROWS} | ({"tokens": TOKENS} if tokens else {})
    return _write(module, {"ids": (ones, TOKENS), "mask": (ones, TOKENS)}, outputs, path)


def write_fusion_graph(module: "Fusion", path: Path) -> int:
    """Write a fusion; rows and the numbers of tokens of both sides are free."""
    import torch

    shape = module.shape
    photos, words = {0: "rows", 1: "image_tokens"}, {0: "rows", 1: "text_tokens"}
    inputs = {
        "image": (torch.ones(2, shape.image_half), ROWS),
        "image_tokens": (torch.ones(2, 16, shape.image_width), photos),
        "image_mask": (torch.ones(2, 16), photos),
        "text": (torch.ones(2, shape.text_half), ROWS),
        "text_tokens": (torch.ones(2, 8, shape.text_width), words),
        "text_mask": (torch.ones(2, 8), words),
    }
    return _write(module, inputs, {"vector": ROWS}, path)


def write_head_graph(module: "torch.nn.Module", dim: int, path: Path) -> int:
    """Write a module over two vectors (n, dim), n free."""
    import torch

    return _write(module, {side: (torch.ones(2, dim), ROWS) for side in ("image", "text")}, {"vector": ROWS}, path)


def _write(
    module: "torch.nn.Module",
    inputs: dict[str, tuple["torch.Tensor", Axes]],
    outputs: dict[str, Axes],
    path: Path,
) -> int:
    import torch

    module.eval()  # the exporter would put it back into training
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # The tracing exporter: as fast and as exact a graph as the newer one here, in a tenth of the time.
        torch.onnx.export(
            module,
            tuple(tensor for tensor, _ in inputs.values()),
            str(path),
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_axes={name: axes for name, (_, axes) in inputs.items()} | outputs,
            opset_version=OPSET,
            dynamo=False,
        )
    given = module(*(tensor for tensor, _ in inputs.values()))
    shapes = [tensor.shape for tensor in (given if isinstance(given, tuple) else (given,))]
    _name_widths(path, shapes, list(outputs.values()))
    return int(shapes[0][1])


def _name_widths(path: Path, shapes: Sequence[Sequence[int]], outputs: Sequence[Axes]) -> None:
    """Say in the file what is fixed of the outputs' sizes: the exporter does not follow every operation."""
    import onnx

    model = onnx.load(path)
    for node, shape, axes in zip(model.graph.output, shapes, outputs, strict=True):
        for axis, size in enumerate(shape):
            if axis not in axes:
                node.type.tensor_type.shape.dim[axis].dim_value = size
    onnx.save(model, path)
