"""Where quantization goes on each runtime, as data: one Placement a rule set, one OpRule an operator.

TensorRT (NvInfer.h, IQuantizeLayer; developer guide, explicit quantization, Q/DQ placement recommendations):
  inputs of weighted layers are quantized, outputs are not, so Conv + activation (+ Add) fuse and requantize at the
  next Q;
  of a residual Add only the skip branch is quantized; biases stay float; zero points are 0 and INT8.

ONNX Runtime CPU: a Conv runs in integers when its inputs come from DequantizeLinear and its output goes into
  QuantizeLinear, so both sides are quantized (Gemm and MatMul may leave their output in float); biases are INT32 with
  scale s_x * s_w; an activation that the saturation of the output's Q performs anyway (Relu, Clip) is dropped, so
  Conv becomes one QLinearConv. Add, Mul, pooling and Concat compute in integers only between integers.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType
from typing import Any

import numpy as np

from trtkit.errors import SpecError
from trtkit.quant.index import GraphIndex, attribute, node_name
from trtkit.tensors import Array

__all__ = ["PLACEMENTS", "OpKind", "Placement", "Points", "Weight", "get_placement", "has_bias", "is_depthwise",
           "place", "row_bias", "weight_axis"]


class OpKind(Enum):
    """What quantization means for an operator."""

    WEIGHTED = "data inputs and weights are quantized"
    RESIDUAL = "of two inputs only the skip branch is quantized"
    ARITHMETIC = "computed in integers: every input and the output have scales of their own"
    FOLLOWS = "moves values: integer when its input is, with the same scale"


_WEIGHTED = {op: OpKind.WEIGHTED for op in ("Conv", "ConvTranspose", "Gemm", "MatMul")}
_FOLLOWING = {op: OpKind.FOLLOWS for op in ("MaxPool", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze")}


@dataclass(frozen=True)
class Placement:
    """The rules of one runtime.

    Attributes:
        name: Key, as targets.toml names it.
        ops: Kind of each operator that is quantized; all others stay in floating point.
        activation: "int8" or "uint8".
        symmetric: Activations have zero point 0.
        weight_max: Largest magnitude of an integer weight: 127, or 64 where products of 8-bit values would overflow
            the 16-bit accumulator (AVX2's vpmaddubsw).
        outputs: Outputs of quantized operators are quantized, too.
        int32_bias: Biases are INT32 with scale s_x * s_w; a layer whose bias cannot be stays in floating point.
        narrowest_depthwise: Depthwise convolutions of fewer channels stay in floating point. They stand at the stem,
            have a few thousand weights, and their rounding noise is amplified by all that follows: the first one of
            EfficientNet-Lite0 alone costs 2 points of agreement with FP32 on the symmetric grid (0.915 against 0.934
            of 576 photographs).
        narrowest_input: Convolutions of fewer input channels get zero channels up to this number; see
            trtkit.quant.padding.
    """

    name: str
    ops: MappingProxyType[str, OpKind]
    activation: str
    symmetric: bool
    weight_max: int = 127
    outputs: bool = False
    int32_bias: bool = False
    narrowest_depthwise: int = 0
    narrowest_input: int = 0

    @property
    def activation_bounds(self) -> tuple[int, int]:
        """Smallest and largest integer of an activation; symmetric INT8 leaves -128 out."""
        if self.activation == "uint8":
            return 0, 255
        return (-127, 127) if self.symmetric else (-128, 127)


def _onnxruntime(name: str, activation: str, *, weight_max: int = 127, narrowest_input: int = 0) -> Placement:
    arithmetic = {op: OpKind.ARITHMETIC for op in ("Add", "Mul", "GlobalAveragePool", "AveragePool", "Concat")}
    ops = {**_WEIGHTED, **arithmetic, **_FOLLOWING}
    del ops["ConvTranspose"]  # it has no integer kernel there: rounding and no speed
    return Placement(name, MappingProxyType(ops), activation, symmetric=False,
                     weight_max=weight_max, outputs=True, int32_bias=True, narrowest_input=narrowest_input)


PLACEMENTS = MappingProxyType({p.name: p for p in (
    Placement("tensorrt", MappingProxyType({**_WEIGHTED, "Add": OpKind.RESIDUAL}), "int8", symmetric=True,
              narrowest_depthwise=64),
    _onnxruntime("onnxruntime-u8", "uint8", narrowest_input=4),
    _onnxruntime("onnxruntime-u8-7bit", "uint8", weight_max=64, narrowest_input=4),
    _onnxruntime("onnxruntime-s8", "int8"),
)})


def get_placement(name: str) -> Placement:
    """Return the rule set called `name`.

    Raises:
        SpecError: There is none.
    """
    if name not in PLACEMENTS:
        raise SpecError(f"Placement '{name}' is unknown. There are: {', '.join(PLACEMENTS)}")
    return PLACEMENTS[name]


@dataclass(frozen=True)
class Weight:
    """A constant operand of a weighted node.

    Attributes:
        node: The node that reads it.
        position: Its input number.
        axis: Channel axis of the scales; None for one scale.
    """

    node: Any
    position: int
    axis: int | None


@dataclass
class Points:
    """What to quantize, before any number is known.

    Attributes:
        activations: Tensor -> the (node, input) pairs that read its quantized form; None: every reader does.
        weights: One entry a quantized constant operand.
        same_scale: Tensor -> the tensor whose scale it must share.
        absorbed: Relu and Clip nodes (by output name) whose producer is a quantized node, droppable when the
            saturation of the output's Q does the same.
    """

    activations: dict[str, list[tuple[Any, int]] | None] = field(default_factory=dict)
    weights: list[Weight] = field(default_factory=list)
    same_scale: dict[str, str] = field(default_factory=dict)
    absorbed: dict[str, Any] = field(default_factory=dict)


def place(index: GraphIndex, placement: Placement, keep: set[str]) -> Points:
    """Return what to quantize in a graph.

    Args:
        index: The FP32 graph.
        placement: The rules.
        keep: Names of nodes that stay in floating point.
    """
    points = Points()
    for node in index.nodes:
        kind = placement.ops.get(node.op_type)
        if kind is None or node_name(node) in keep or not index.is_float(node.output[0]):
            continue
        if is_depthwise(index, node) and attribute(node, "group", 1) < placement.narrowest_depthwise:
            continue
        if kind is OpKind.WEIGHTED and placement.int32_bias and row_bias(index, node) is None:
            continue
        if kind is OpKind.WEIGHTED:
            _place_weighted(index, placement, node, points)
        elif kind is OpKind.RESIDUAL:
            _place_residual(index, node, points)
    for node in index.nodes:
        kind = placement.ops.get(node.op_type)
        if node_name(node) in keep or not _all_integer(index, node, points):
            continue
        if kind is OpKind.ARITHMETIC:
            _place_arithmetic(index, node, points)
        elif kind is OpKind.FOLLOWS:
            points.activations[node.output[0]] = None
            points.same_scale[node.output[0]] = node.input[0]
    return points


def _all_integer(index: GraphIndex, node: Any, points: Points) -> bool:
    """Whether every input that is no constant is quantized, and there is one."""
    variables = _variables(index, node)
    return bool(variables) and all(points.activations.get(name, ()) is None for name in variables)


def _variables(index: GraphIndex, node: Any) -> list[str]:
    return [name for name in node.input if name and index.constant(name) is None]


def is_depthwise(index: GraphIndex, node: Any) -> bool:
    """Whether a node is a Conv in which every output channel reads one input channel."""
    if node.op_type != "Conv" or attribute(node, "group", 1) == 1:
        return False
    weight = index.initializers.get(node.input[1])
    return weight is not None and weight.dims[1] == 1


def row_bias(index: GraphIndex, node: Any) -> Array | None:
    """Return a weighted node's bias as one value an output channel: (C,), or (1,) for all; 0 where there is none.

    None where it is something else: computed, different from row to row of a Gemm, or in a Gemm with alpha or beta.
    """
    if attribute(node, "alpha", 1.0) != 1.0 or attribute(node, "beta", 1.0) != 1.0:
        return None
    if not has_bias(node):
        return np.zeros(1, np.float32)
    bias = index.constant(node.input[2])
    return bias.reshape(-1) if bias is not None and (bias.ndim < 2 or bias.shape[0] == 1) else None


def has_bias(node: Any) -> bool:
    """Whether a weighted node has a third input."""
    return len(node.input) > 2 and bool(node.input[2])


def weight_axis(node: Any, position: int, rank: int) -> int | None:
    """Return the output-channel axis of a weighted node's constant operand: the only axis TensorRT fuses.

    Source: TensorRT developer guide, explicit quantization: Conv axis 0, ConvTranspose axis 1, MatMul [K, N] axis 1,
    Gemm axis 1, or 0 with transB. A left operand, or a grouped ConvTranspose (where axis 1 is C_out / group), gets one
    scale.
    """
    if node.op_type == "Conv":
        return 0
    if node.op_type == "ConvTranspose":
        return 1 if attribute(node, "group", 1) == 1 else None
    if position != 1 or rank < 2:
        return None
    if node.op_type == "Gemm":
        return 0 if attribute(node, "transB", 0) else 1
    return rank - 1 if rank == 2 else None


def _place_weighted(index: GraphIndex, placement: Placement, node: Any, points: Points) -> None:
    operands = list(enumerate(node.input[:2]))
    constants = [(position, index.constant(name)) for position, name in operands]
    if all(value is not None for _, value in constants):
        return
    for (position, name), (_, value) in zip(operands, constants):
        if value is None:
            _read(points, placement, name, node, position)
        elif np.size(value) > 1:
            points.weights.append(Weight(node, position, weight_axis(node, position, value.ndim)))
    if placement.outputs and node.op_type == "Conv":
        activation = index.activation_after(node, ("Relu", "Clip"))
        output = node.output[0] if activation is None else activation.output[0]
        points.activations[output] = None
        if activation is not None:
            points.absorbed[output] = activation


def _read(points: Points, placement: Placement, name: str, node: Any, position: int) -> None:
    if placement.outputs:
        points.activations[name] = None
    else:
        readers = points.activations.setdefault(name, [])
        if readers is not None and (node, position) not in readers:
            readers.append((node, position))


def _place_residual(index: GraphIndex, node: Any, points: Points) -> None:
    """Quantize the branch that TensorRT does not fuse into the Add: Conv + Add + Relu run as one kernel.

    The branch that ends in a weighted layer read by the Add alone is fused; the other one is the skip. With two such
    branches (a projection shortcut) the second is taken as the skip; with none nothing is quantized.
    """
    names = list(node.input)
    if any(index.constant(name) is not None for name in names):
        return
    quantized = {id(weight.node) for weight in points.weights}
    fused = [name for name in names if name in index.producer and id(index.producer[name]) in quantized
             and index.producer[name].op_type in ("Conv", "Gemm") and index.only_reader(name) is node]
    if not fused:
        return
    position = names.index(fused[0]) ^ 1
    readers = points.activations.setdefault(names[position], [])
    if readers is not None:
        readers.append((node, position))


def _place_arithmetic(index: GraphIndex, node: Any, points: Points) -> None:
    """Compute in integers what stands between integers and is not an output of the graph."""
    if len(_variables(index, node)) < len(node.input) or node.output[0] in index.outputs:
        return
    activation = index.activation_after(node, ("Relu", "Clip")) if node.op_type == "Add" else None
    output = node.output[0] if activation is None else activation.output[0]
    points.activations[output] = None
    if activation is not None:
        points.absorbed[output] = activation
