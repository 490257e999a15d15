"""FP32 graph -> which nodes a Deep Learning Accelerator runs, which go to the GPU and why, and which scales it wants.

The rules are those that a graph can show; TensorRT on the board has the last word (`can_run_on_DLA`, which the build
reports). Not seen here: convolutions that overflow the DLA's buffer, and more than 16 pieces of one network.
Source: TensorRT documentation, "DLA Supported Layers and Restrictions" (8.5 to 10.7, and 11.4.1 for Jetson). Not run on
a DLA yet.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import onnx

from trtkit.graph import infer_shapes
from trtkit.quant.index import GraphIndex, attribute, node_name

__all__ = ["Coverage", "dla_coverage", "tie_scales"]

_LARGEST = 8192
_LARGEST_BATCH = 4096


@dataclass(frozen=True)
class Coverage:
    """Which nodes a DLA runs.

    Attributes:
        nodes: Nodes that compute on data; constants and shape arithmetic left out.
        on_gpu: Why each other node goes to the GPU, by its name.
        pieces: Stretches of nodes on the DLA with nodes on the GPU between them, in the order of the graph; each
            change costs a copy between two memory formats.
    """

    nodes: int
    on_gpu: Mapping[str, str]
    pieces: int

    def __str__(self) -> str:
        pieces = "1 piece" if self.pieces == 1 else f"{self.pieces} pieces"
        text = f"DLA runs {self.nodes - len(self.on_gpu)} of {self.nodes} nodes in {pieces}"
        reasons = [f"{count} x {reason}" for reason, count in Counter(self.on_gpu.values()).most_common()]
        return text + (f"; GPU: {', '.join(reasons)}" if reasons else "")


@dataclass(frozen=True)
class _Node:
    """A node with what the rules ask for."""

    node: Any
    index: GraphIndex
    shapes: Mapping[str, tuple[int, ...]]
    xavier: bool

    def ints(self, name: str, default: list[int]) -> list[int]:
        return list(attribute(self.node, name, default))

    def shape(self, position: int = 0) -> tuple[int, ...]:
        return self.shapes.get(self.node.input[position], ()) if len(self.node.input) > position else ()

    def constant(self, position: int) -> Any:
        return self.index.constant(self.node.input[position]) if len(self.node.input) > position else None


Rule = Callable[[_Node], str]
"""Returns why a node cannot run on the DLA; "" when nothing is known against it."""


def _within(what: str, values: list[int], low: int, high: int) -> str:
    bad = [value for value in values if not low <= value <= high]
    return f"{what} {bad[0]} is outside {low} to {high}" if bad else ""


def _first(*reasons: str) -> str:
    return next(filter(None, reasons), "")


def _conv(each: _Node) -> str:
    weight = each.shape(1)
    if each.constant(1) is None or len(weight) != 4:
        return "convolution that is not 2D with constant weights"
    kernel, pads = list(weight[2:]), each.ints("pads", [0] * 4)
    return _first(_within("kernel size", kernel, 1, 32), _within("padding", pads, 0, 31),
                  "padding not below the kernel size" if any(p >= k for p, k in zip(pads, kernel * 2)) else "",
                  _within("stride", each.ints("strides", [1, 1]), 1, 8),
                  _within("dilation", each.ints("dilations", [1, 1]), 1, 32),
                  _within("output channels", [weight[0]], 1, _LARGEST))


def _transposed(each: _Node) -> str:
    weight = each.shape(1)
    if each.constant(1) is None or len(weight) != 4:
        return "transposed convolution that is not 2D with constant weights"
    odd = any(each.ints("pads", [0])) or any(each.ints("output_padding", [0]))
    return _first("transposed convolution with padding" if odd else "",
                  "transposed convolution with groups" if attribute(each.node, "group", 1) != 1 else "",
                  "transposed convolution with dilation" if set(each.ints("dilations", [1])) != {1} else "",
                  _within("kernel size", list(weight[2:]), 1, 32), _within("stride", each.ints("strides", [1]), 1, 32))


def _pool(each: _Node) -> str:
    if len(each.shape()) != 4:
        return "pooling that is not 2D"
    pads = each.ints("pads", [0] * 4)
    exclusive = each.node.op_type == "AveragePool" and any(pads) and not attribute(each.node, "count_include_pad", 0)
    return _first(_within("pooling window", each.ints("kernel_shape", []), 1, 8), _within("padding", pads, 0, 7),
                  _within("stride", each.ints("strides", [1, 1]), 1, 16),
                  "average pooling that leaves the padding out" if exclusive else "")


def _global_pool(each: _Node) -> str:
    shape = each.shape()
    return _within("pooling window", list(shape[2:]), 1, 8) if len(shape) == 4 else "pooling that is not 2D"


def _clip(each: _Node) -> str:
    bounds = each.index.clip_bounds(each.node)
    if bounds is None or bounds[0] != 0.0 or not 1.0 <= bounds[1] <= 127.0:
        return "Clip that is not from 0 to a limit of 1 to 127"
    return _plain(each)


def _concat(each: _Node) -> str:
    axis, rank = attribute(each.node, "axis", 1), len(each.shape())
    return "Concat on another axis than the channels" if rank != 4 or axis not in (1, -3) else ""


def _resize(each: _Node) -> str:
    source, target = each.shape(), each.shapes.get(each.node.output[0], ())
    mode: bytes = attribute(each.node, "mode", b"nearest")
    if len(source) != 4 or len(target) != 4 or source[:2] != target[:2] or mode not in (b"nearest", b"linear"):
        return "Resize of more than height and width, or cubic"
    whole = all(size > 0 and out % size == 0 for size, out in zip(source[2:], target[2:]))
    factors = [out // size for size, out in zip(source[2:], target[2:]) if size > 0]
    return _first("" if whole else "Resize by a fraction", _within("Resize factor", factors, 1,
                                                                   4 if mode == b"linear" else 32))


def _softmax(each: _Node) -> str:
    if each.xavier:
        return "Softmax on Xavier"
    shape = each.shape()
    axis = attribute(each.node, "axis", -1) % max(len(shape), 1)
    others = [size for place, size in enumerate(shape) if place not in (0, axis)]
    return "" if len(shape) == 4 and shape[0] == 1 and set(others) <= {1} else "Softmax beside other dimensions"


def _slope(each: _Node) -> str:
    return _plain(each) if each.constant(1) is not None else "PRelu whose slope is computed"


def _plain(each: _Node) -> str:
    return "" if len(each.shape()) == 4 else f"{each.node.op_type} of a tensor that is not 4D"


def _arithmetic(each: _Node) -> str:
    ranks = {len(each.shape(position)) for position in range(len(each.node.input)) if each.constant(position) is None}
    return "" if ranks == {4} else f"{each.node.op_type} of a tensor that is not 4D"


def _gemm(each: _Node) -> str:
    constant = each.constant(1) is not None and attribute(each.node, "transA", 0) == 0
    return "" if constant else "Gemm without constant weights"


def _nothing(each: _Node) -> str:
    return ""


RULES: Mapping[str, Rule] = MappingProxyType({
    "Conv": _conv, "ConvTranspose": _transposed, "Gemm": _gemm,
    "MaxPool": _pool, "AveragePool": _pool, "GlobalAveragePool": _global_pool, "GlobalMaxPool": _global_pool,
    "Relu": _plain, "LeakyRelu": _plain, "Sigmoid": _plain, "Tanh": _plain, "Abs": _plain, "BatchNormalization": _plain,
    "Clip": _clip, "PRelu": _slope, "LRN": _plain,
    **dict.fromkeys(("Add", "Sub", "Mul", "Div", "Max", "Min", "Pow"), _arithmetic),
    "Concat": _concat, "Resize": _resize, "Softmax": _softmax,
    **dict.fromkeys(("Flatten", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Identity", "Dropout"), _nothing),
})
"""Each operator that some DLA runs; all others go to the GPU."""


def dla_coverage(model: onnx.ModelProto, sm: str = "8.7") -> Coverage:
    """Return which nodes of a model a DLA runs.

    Args:
        model: FP32, rewritten for the target. Where the batch is dynamic it is taken as fixed, as a build needs it.
        sm: Compute capability of the board's GPU: "7.2" is Xavier, whose DLA has no Softmax.
    """
    model = infer_shapes(model)
    index, shapes = GraphIndex(model), _shapes(model)
    live = set(index.inputs)
    on_gpu: dict[str, str] = {}
    nodes = pieces = 0
    inside = False
    for node in index.nodes:
        if node.op_type in ("Shape", "Size") or not live.intersection(node.input):
            continue
        live.update(node.output)
        nodes += 1
        reason = _reason(_Node(node, index, shapes, sm == "7.2"))
        if reason:
            on_gpu[node_name(node)] = reason
        pieces += not reason and not inside
        inside = not reason
    return Coverage(nodes, on_gpu, pieces)


def tie_scales(model: onnx.ModelProto, scales: Mapping[str, float]) -> dict[str, float]:
    """Return the scales with those made equal that a DLA wants equal in INT8: the largest of each group.

    Inputs and output of a Concat, and input and output of a pooling layer; where several of these share a tensor, they
    form one group.
    """
    groups = {name: name for name in scales}

    def root(name: str) -> str:
        while groups[name] != name:
            name = groups[name]
        return name

    for node in model.graph.node:
        if node.op_type in ("Concat", "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool"):
            members = [name for name in (*node.input, node.output[0]) if name in groups]
            for name in members[1:]:
                groups[root(name)] = root(members[0])
    largest: dict[str, float] = {}
    for name, scale in scales.items():
        largest[root(name)] = max(scale, largest.get(root(name), 0.0))
    return {name: largest[root(name)] for name in scales}


def _reason(each: _Node) -> str:
    operator = str(each.node.op_type)
    rule = RULES.get(operator)
    if rule is None:
        return operator
    for shape in (each.shape(), each.shapes.get(each.node.output[0], ())):
        if max(shape[1:], default=0) > _LARGEST or max(shape[:1], default=0) > _LARGEST_BATCH:
            return f"{operator} with a dimension above {_LARGEST}, or {_LARGEST_BATCH} for the batch"
    return rule(each)


def _shapes(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """Return the known shapes; a dynamic dimension counts as 1, which no rule refuses."""
    graph = model.graph
    shapes = {info.name: tuple(dim.dim_value or 1 for dim in info.type.tensor_type.shape.dim)
              for info in (*graph.input, *graph.output, *graph.value_info)}
    return {**shapes, **{tensor.name: tuple(tensor.dims) for tensor in graph.initializer}}
