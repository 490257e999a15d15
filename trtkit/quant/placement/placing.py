"""Graph + rules -> points: every node by the kind of its operator, weighted layers first."""

from __future__ import annotations

from typing import Any

import numpy as np

from trtkit.quant.index import GraphIndex, attribute, node_name
from trtkit.quant.placement.layers import is_depthwise, row_bias, weight_axis
from trtkit.quant.placement.points import Points, Weight
from trtkit.quant.placement.rules import OpKind, Placement

__all__ = ["place"]


def place(index: GraphIndex, placement: Placement, keep: set[str]) -> Points:
    """Return what to quantize in a graph.

    Args:
        index: The FP32 graph, nodes in topological order.
        placement: The rules.
        keep: Names of nodes that stay in floating point.
    """
    points = Points()
    for node in index.nodes:
        kind = placement.ops.get(node.op_type)
        if kind is None or node_name(node) in keep or not index.is_float(node.output[0]):
            continue
        if kind is OpKind.WEIGHTED and _may_be_quantized(index, placement, node):
            _place_weighted(index, placement, node, points)
        elif kind is OpKind.RESIDUAL:
            _place_residual(index, node, points)
    for node in index.nodes:
        kind = placement.ops.get(node.op_type)
        if kind in _BETWEEN and node_name(node) not in keep:
            _BETWEEN[kind](index, keep, node, points)
    return points


def _may_be_quantized(index: GraphIndex, placement: Placement, node: Any) -> bool:
    if is_depthwise(index, node) and attribute(node, "group", 1) < placement.narrowest_depthwise:
        return False
    return not placement.int32_bias or row_bias(index, node) is not None


def _place_weighted(index: GraphIndex, placement: Placement, node: Any, points: Points) -> None:
    operands = list(enumerate(node.input[:2]))
    constants = [(position, index.constant(name)) for position, name in operands]
    known = [value is not None for _, value in constants]
    if all(known) or not (any(known) or placement.attention):
        return
    for (position, name), (_, value) in zip(operands, constants):
        if value is None:
            if placement.outputs:
                points.activations[name] = None
            else:
                points.read(name, node, position)
        elif np.size(value) > 1:
            points.weights.append(Weight(node, position, weight_axis(node, position, value.ndim)))
    if placement.outputs and node.op_type == "Conv":
        activation = index.activation_after(node, ("Relu", "Clip"))
        output = node.output[0] if activation is None else activation.output[0]
        points.activations[output] = None
        if activation is not None:
            points.absorbed[output] = activation


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
    points.read(names[position], node, position)


def _place_arithmetic(index: GraphIndex, keep: set[str], node: Any, points: Points) -> None:
    """Compute in integers what stands between integers and is not an output of the graph.

    A constant of one element may take part: it is exact on a grid of its own.
    """
    variables = [(position, name) for position, name in enumerate(node.input) if index.constant(name) is None]
    numbers = [(node, position) for position, name in enumerate(node.input) if index.constant(name) is not None]
    if not variables or not all(points.is_integer(name) for _, name in variables) or node.output[0] in index.outputs:
        return
    if numbers and (node.op_type not in ("Add", "Mul") or not _is_number(index.constant(node.input[numbers[0][1]]))):
        return
    points.numbers.extend(numbers)
    activation = index.activation_after(node, ("Relu", "Clip")) if node.op_type == "Add" else None
    output = node.output[0] if activation is None else activation.output[0]
    points.activations[output] = None
    if activation is not None:
        points.absorbed[output] = activation


def _is_number(value: Any) -> bool:
    """Whether a constant is one normal float32."""
    return bool(value.size == 1 and value.dtype == np.float32 and np.isfinite(value).all()
                and np.abs(value).min() >= np.finfo(np.float32).tiny)


def _place_gate(index: GraphIndex, keep: set[str], node: Any, points: Points) -> None:
    """Look up the gate of HardSwish or SiLU, x * gate(x), where x is an integer.

    The gates of squeeze-and-excitation stay in float: one value opens a whole channel, and its rounding, which is the
    same for all of it, cost the v4 recognizer of PP-OCR 6 dB (logits of 6 lines); those gates are small, and take no
    time.
    """
    output = node.output[0]
    readers = index.readers.get(output, [])
    if not points.is_integer(node.input[0]) or not readers or output in index.outputs or output in index.captured:
        return
    for reader, position in readers:
        if reader.op_type != "Mul" or reader.input[1 - position] != node.input[0] or node_name(reader) in keep:
            return
    points.activations[output] = None
    points.gates[output] = node


def _place_following(index: GraphIndex, keep: set[str], node: Any, points: Points) -> None:
    """Move integers instead of floats. Other inputs of such a node (sizes, starts) are integers anyway."""
    if points.is_integer(node.input[0]) and _keeps_values(node):
        for output in node.output if node.op_type == "Split" else node.output[:1]:
            points.activations[output] = None
            points.same_scale[output] = node.input[0]


def _place_commuting(index: GraphIndex, keep: set[str], node: Any, points: Points) -> None:
    """Give what is moved the scale of where it comes from, so that one Q in front of both does."""
    for output in node.output:
        if node.input[0] in points.activations and output in points.activations and _keeps_values(node):
            points.joined[output] = node.input[0]


def _place_joining(index: GraphIndex, keep: set[str], node: Any, points: Points) -> None:
    """Give the inputs of a Concat, where they are quantized for others too, the scale of its quantized output."""
    output = node.output[0]
    if output not in points.activations:
        return
    for name in node.input:
        if name in points.activations:
            points.joined[name] = output


def _keeps_values(node: Any) -> bool:
    """Whether every value of the output is one of the input: not so where a Resize blends neighbours."""
    return bool(node.op_type != "Resize" or attribute(node, "mode", b"nearest") == b"nearest")


_BETWEEN = {
    OpKind.ARITHMETIC: _place_arithmetic,
    OpKind.GATE: _place_gate,
    OpKind.FOLLOWS: _place_following,
    OpKind.COMMUTES: _place_commuting,
    OpKind.JOINS: _place_joining,
}
