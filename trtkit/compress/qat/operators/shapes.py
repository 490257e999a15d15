"""What moves values without computing any: shapes, joins, cuts, padding, constants."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from onnx import numpy_helper

from trtkit.compress.qat.operators.registry import Kernel, Node, Operator, apply

__all__ = ["SHAPES"]

_REPEATING = ("reflect", "edge", "wrap")
"""Modes of padding that repeat elements, as ONNX and numpy call them."""


def _shape(node: Node) -> Kernel:
    wanted = slice(node.get("start", 0), node.get("end"))
    return lambda x: torch.tensor(x.shape[wanted], dtype=torch.int64)


def _reshape(node: Node) -> Kernel:
    allows_zero = node.get("allowzero", 0)

    def run(x: torch.Tensor, shape: torch.Tensor) -> torch.Tensor:
        sizes = shape.tolist()
        if not allows_zero:
            sizes = [size or x.shape[axis] for axis, size in enumerate(sizes)]
        return x.reshape(sizes)

    return run


def _flatten(node: Node) -> Kernel:
    axis = node.get("axis", 1)
    return lambda x: x.flatten(1) if axis == 1 and x.dim() > 1 else x.reshape(x.shape[:axis].numel(), -1)


def _transpose(node: Node) -> Kernel:
    order = node.get("perm")
    return lambda x: x.permute(order or tuple(reversed(range(x.dim()))))


def _squeeze(node: Node) -> Kernel:
    fixed = node.get("axes")

    def run(x: torch.Tensor, axes: torch.Tensor | None = None) -> torch.Tensor:
        chosen = fixed if axes is None else axes.tolist()
        return x.squeeze() if chosen is None else x.squeeze(tuple(chosen))

    return run


def _unsqueeze(node: Node) -> Kernel:
    fixed = node.get("axes")

    def run(x: torch.Tensor, axes: torch.Tensor | None = None) -> torch.Tensor:
        chosen = fixed if axes is None else axes.tolist()
        for axis in sorted(axis % (x.dim() + len(chosen)) for axis in chosen):
            x = x.unsqueeze(axis)
        return x

    return run


def _concat(node: Node) -> Kernel:
    axis = node.get("axis")
    return lambda *tensors: torch.cat(tensors, axis)


def _split(node: Node) -> Kernel:
    axis, fixed, count = node.get("axis", 0), node.get("split"), node.get("num_outputs") or len(node.outputs)

    def run(x: torch.Tensor, sizes: torch.Tensor | None = None) -> tuple[torch.Tensor, ...]:
        chosen = fixed if sizes is None else sizes.tolist()
        return tuple(x.split(chosen if chosen is not None else -(-x.shape[axis] // count), axis))

    return run


def _slice(x: torch.Tensor, starts: torch.Tensor, ends: torch.Tensor, axes: torch.Tensor | None = None,
           steps: torch.Tensor | None = None) -> torch.Tensor:
    begins = starts.tolist()
    chosen = range(len(begins)) if axes is None else axes.tolist()
    strides = [1] * len(begins) if steps is None else steps.tolist()
    for axis, begin, end, stride in zip(chosen, begins, ends.tolist(), strides):
        start, stop, step = slice(begin, end, stride).indices(x.shape[axis])
        if step > 0:
            x = x.narrow(axis, start, max(stop - start, 0)) if step == 1 else x[_along(axis, x, start, stop, step)]
        else:
            x = x.index_select(axis, torch.arange(start, min(stop, start), step, device=x.device))
    return x


def _along(axis: int, x: torch.Tensor, start: int, stop: int, step: int) -> tuple[Any, ...]:
    return (*[slice(None)] * (axis % x.dim()), slice(start, stop, step))


def _expand(x: torch.Tensor, shape: torch.Tensor) -> torch.Tensor:
    return x.expand(torch.broadcast_shapes(x.shape, tuple(shape.tolist())))


def _pad(node: Node) -> Kernel:
    mode = node.get("mode", "constant")
    if mode != "constant" and mode not in _REPEATING:
        node.refuse(f"its mode '{mode}' is unknown")

    def run(x: torch.Tensor, pads: torch.Tensor, value: torch.Tensor | None = None,
            axes: torch.Tensor | None = None) -> torch.Tensor:
        amounts = pads.tolist()
        half = len(amounts) // 2
        chosen = range(half) if axes is None else [axis % x.dim() for axis in axes.tolist()]
        ends = {axis: (amounts[place], amounts[place + half]) for place, axis in enumerate(chosen)}
        if mode == "constant":
            flat = [pad for axis in reversed(range(x.dim())) for pad in ends.get(axis, (0, 0))]
            return F.pad(x, flat, value=0 if value is None else value.item())
        for axis, (begin, end) in ends.items():
            if begin or end:
                x = x.index_select(axis, _padded_places(x.shape[axis], begin, end, mode).to(x.device))
        return x

    return run


def _padded_places(size: int, begin: int, end: int, mode: str) -> torch.Tensor:
    """Return which element of an axis each element of the padded axis repeats; negative padding cuts."""
    kept: Any = np.arange(size)[max(-begin, 0):size - max(-end, 0)]
    kind: Any = mode
    return torch.from_numpy(np.pad(kept, (max(begin, 0), max(end, 0)), mode=kind))


def _depth_to_space(node: Node) -> Kernel:
    block, by_column = node.get("blocksize"), node.get("mode", "DCR") == "DCR"

    def run(x: torch.Tensor) -> torch.Tensor:
        if not by_column:
            return F.pixel_shuffle(x, block)
        batch, channels, height, width = x.shape
        blocks = x.reshape(batch, block, block, channels // block ** 2, height, width)
        return blocks.permute(0, 3, 4, 1, 5, 2).reshape(batch, -1, height * block, width * block)

    return run


def _space_to_depth(node: Node) -> Kernel:
    block = node.get("blocksize")

    def run(x: torch.Tensor) -> torch.Tensor:
        batch, channels, height, width = x.shape
        blocks = x.reshape(batch, channels, height // block, block, width // block, block)
        return blocks.permute(0, 3, 5, 1, 2, 4).reshape(batch, -1, height // block, width // block)

    return run


def _constant(node: Node) -> Kernel:
    name, value = next(iter(node.attributes.items()))
    dtypes = {"value_float": torch.float32, "value_floats": torch.float32, "value_int": torch.int64,
              "value_ints": torch.int64}
    if name != "value" and name not in dtypes:
        node.refuse(f"torch has no form for a constant given as '{name}'")
    plain = numpy_helper.to_array(value).copy() if name == "value" else value
    return lambda: torch.as_tensor(plain, dtype=dtypes.get(name))


def _constant_of_shape(node: Node) -> Kernel:
    tensor = node.get("value")
    value = torch.zeros(1) if tensor is None else torch.from_numpy(numpy_helper.to_array(tensor).copy())
    number, dtype = value.item(), value.dtype
    return lambda shape: torch.full(shape.tolist(), number, dtype=dtype)


def _range(start: torch.Tensor, limit: torch.Tensor, delta: torch.Tensor) -> torch.Tensor:
    first, last, step = start.item(), limit.item(), delta.item()
    return torch.arange(first, last if (last - first) * step > 0 else first, step, dtype=start.dtype)


def _trilu(node: Node) -> Kernel:
    keep = torch.triu if node.get("upper", 1) else torch.tril
    return lambda x, k=None: keep(x, 0 if k is None else int(k.item()))


SHAPES: Mapping[str, Operator] = MappingProxyType({
    "Shape": Operator(_shape),
    "Size": apply(lambda x: torch.tensor(x.numel())),
    "Reshape": Operator(_reshape, host=(1,)),
    "Flatten": Operator(_flatten),
    "Transpose": Operator(_transpose),
    "Squeeze": Operator(_squeeze, host=(1,)),
    "Unsqueeze": Operator(_unsqueeze, host=(1,)),
    "Concat": Operator(_concat),
    "Split": Operator(_split, host=(1,)),
    "Slice": Operator(lambda node: _slice, host=(1, 2, 3, 4)),
    "Expand": Operator(lambda node: _expand, host=(1,)),
    "Tile": Operator(lambda node: lambda x, repeats: x.repeat(repeats.tolist()), host=(1,)),
    "Pad": Operator(_pad, host=(1, 2, 3)),
    "DepthToSpace": Operator(_depth_to_space),
    "SpaceToDepth": Operator(_space_to_depth),
    "Constant": Operator(_constant),
    "ConstantOfShape": Operator(_constant_of_shape, host=(0,)),
    "Range": Operator(lambda node: _range, host=(0, 1, 2)),
    "Trilu": Operator(_trilu, host=(1,)),
})
