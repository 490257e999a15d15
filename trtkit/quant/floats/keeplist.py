"""FP32 graph + calibrated ranges -> the nodes that must stay in FP32 when the rest becomes FP16 or BF16, each with why.

A node stays when its operator is delicate or has no 16-bit form, when it holds subgraphs, when it belongs to a chain
that computes a variance or a softmax piece by piece, or when values on one of its tensors are too large or too small:

    overflow    |x| beyond half of the format's largest value: calibration shows a part of what will come
    underflow   sum of squared rounding errors below the smallest normal value above 1e-4 of sum(x^2), that is, less
                than 40 dB are left; of a divisor any value down there, because what comes out is its reciprocal
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from trtkit.findings import some_of
from trtkit.precision import NodeSelector
from trtkit.quant.floats.half import HalfFormat
from trtkit.quant.index import GraphIndex, node_name
from trtkit.ranges import CalibrationTable, Histogram
from trtkit.tensors import Array

__all__ = ["FP32_INPUTS", "FP32_OPS", "fp32_nodes", "keep_notes"]

FP32_OPS = frozenset({
    "Softmax", "LogSoftmax", "LayerNormalization", "InstanceNormalization", "GroupNormalization", "LpNormalization",
    "RMSNormalization", "ReduceMean", "ReduceSum", "ReduceSumSquare", "ReduceL1", "ReduceL2", "ReduceLogSum",
    "ReduceLogSumExp", "ReduceProd", "CumSum", "Pow", "Exp", "Log", "Sqrt", "Reciprocal", "TopK", "NonMaxSuppression",
    "RoiAlign", "Range", "GridSample",
    "Constant", "ConstantOfShape", "EyeLike", "RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike",
    "Bernoulli", "Multinomial", "HannWindow", "HammingWindow", "BlackmanWindow", "MelWeightMatrix",
    "DynamicQuantizeLinear", "QLinearConv", "QLinearMatMul",
})
"""Operators kept in FP32: reductions and exponentials lose digits or overflow, coordinates and counts need them all."""

FP32_INPUTS = {"Resize": (1, 2), "Upsample": (1,)}
"""Inputs that stay float32: the operator, or TensorRT, defines them so."""

_HEADROOM = 0.5
_LOST = 1e-4
_QUANTIZERS = ("QuantizeLinear", "DequantizeLinear")
_SHIFTS = ("Add", "Max", "Clip")
_SUMS = ("ReduceMean", "ReduceSum", "GlobalAveragePool")
_NOTHING = NodeSelector()


def fp32_nodes(index: GraphIndex, half: HalfFormat, opset: int, table: CalibrationTable | None = None,
               keep: NodeSelector = _NOTHING) -> dict[str, str]:
    """Return why nodes stay in FP32, by node name.

    Args:
        index: The FP32 graph.
        half: What the other nodes get.
        opset: Of the model: older ones define fewer operators on `half`.
        table: Ranges of the activations; without it only constants and operators are judged.
        keep: Nodes that the user wants in FP32.

    Raises:
        SpecError: A keep selector matches nothing.
    """
    reasons = dict.fromkeys(keep.select((node_name(node), node.op_type) for node in index.nodes), "asked for")
    for chain, why in _chains(index):
        for node in chain:
            reasons.setdefault(node_name(node), why)
    for node in index.nodes:
        floats = [name for name in (*node.input, *node.output) if name and index.is_float(name)]
        if floats and node_name(node) not in reasons:
            why = _operator(node, half, opset) or _values(index, node, floats, half, table)
            if why:
                reasons[node_name(node)] = why
            source = index.producer.get(node.input[1]) if why and node.op_type == "Div" else None
            if source is not None:
                reasons.setdefault(node_name(source), f"makes what {node_name(node)} divides by")
    return reasons


def keep_notes(reasons: dict[str, str]) -> tuple[str, ...]:
    """Return lines for people: how many nodes stay in FP32, then the names by reason."""
    if not reasons:
        return ("no node stays in FP32",)
    groups: dict[str, list[str]] = {}
    for name, why in reasons.items():
        groups.setdefault(why, []).append(name)
    return (f"{len(reasons)} nodes stay in FP32",
            *(f"in FP32, {why}: {some_of(names)}" for why, names in groups.items()))


def _operator(node: Any, half: HalfFormat, opset: int) -> str:
    if node.op_type in FP32_OPS:
        return f"{node.op_type} needs range or digits"
    if any(item.HasField("g") or item.graphs for item in node.attribute):
        return "holds subgraphs"
    if not half.defines(node, opset, FP32_INPUTS.get(node.op_type, ())):
        return f"{node.op_type} has no {half.name} form in opset {opset} or in TensorRT"
    return ""


def _values(index: GraphIndex, node: Any, floats: list[str], half: HalfFormat, table: CalibrationTable | None) -> str:
    if node.op_type in _QUANTIZERS:
        return ""  # their scales are looked at by trtkit.quant.floats.mixed
    exact = {node.input[position] for position in FP32_INPUTS.get(node.op_type, ()) if position < len(node.input)}
    divisor = node.input[1] if node.op_type == "Div" else ""
    for name in floats:
        constant = index.constant(name)
        histogram = table.tensors.get(name) if table is not None else None
        if constant is not None and name not in exact:
            why = _misfit(constant, half)
        elif histogram is not None and histogram.has_range:
            why = _out_of_range(histogram, half, divisor=name == divisor)
        else:
            continue
        if why:
            return f"'{name}' {why}"
    return ""


def _misfit(constant: Array, half: HalfFormat) -> str:
    """Return what rounding does to a constant; "" where it is harmless."""
    largest = float(np.abs(constant).max(initial=0.0))
    if not largest <= half.largest:
        return f"holds {largest:.3g}, {half.name} ends at {half.largest:.3g}"
    value = constant.astype(np.float64)
    error = half.rounded(constant) - value
    if float((error * error).sum()) > _LOST * float((value * value).sum()):
        return f"is {largest:.3g} at most, too small for {half.name}"
    return ""


def _out_of_range(histogram: Histogram, half: HalfFormat, *, divisor: bool) -> str:
    if histogram.non_finite:
        return "is not finite in FP32 either"
    if histogram.amax > _HEADROOM * half.largest:
        return f"reaches {histogram.amax:.3g}, {half.name} ends at {half.largest:.3g}"
    low, high, counts = histogram.intervals()
    magnitude = np.abs(low + high) / 2
    tiny = (magnitude > 0) & (magnitude < half.smallest_normal)
    if not tiny.any():
        return ""
    share = 100 * float(counts[tiny].sum() / counts[magnitude > 0].sum())
    if divisor:
        return f"divides, and {share:.2g} % of it lie below {half.name}'s {half.smallest_normal:.2g}"
    power = magnitude * magnitude
    noise = np.minimum(power[tiny], half.smallest**2 / 12)
    if float((noise * counts[tiny]).sum()) <= _LOST * float((power * counts).sum()):
        return ""
    return f"is too small: {share:.2g} % of it lie below {half.name}'s {half.smallest_normal:.2g}"


def _chains(index: GraphIndex) -> Iterator[tuple[list[Any], str]]:
    """Yield normalizations written in pieces, which stay in FP32 as a whole, and what they are."""
    for node in index.nodes:
        if node.op_type == "Sqrt" or (node.op_type == "Pow" and _is_root(index, node)):
            chain = _variance(index, node)
            if chain:
                yield chain, "a variance and what it divides"
        elif node.op_type == "Exp":
            chain = _softmax(index, node)
            if chain:
                yield chain, "a softmax in pieces"


def _variance(index: GraphIndex, root: Any) -> list[Any]:
    """Match [ReduceMean, Sub,] Pow or Mul, ReduceMean[, Add epsilon], root[, Reciprocal], Div or Mul."""
    chain = [root]
    node = index.producer.get(root.input[0])
    while node is not None and node.op_type in _SHIFTS:
        chain.append(node)
        node = next((made for name in node.input if (made := index.producer.get(name))), None)
    if node is not None and node.op_type in _SUMS:
        chain.append(node)
        node = index.producer.get(node.input[0])
        if node is None or not (node.op_type == "Pow" or (node.op_type == "Mul" and node.input[0] == node.input[1])):
            return []
    elif node is None or node.op_type != "ReduceSumSquare":
        return []
    chain.append(node)
    difference = index.producer.get(node.input[0])
    if difference is not None and difference.op_type == "Sub":
        mean = index.producer.get(difference.input[1])
        chain += [difference] if mean is None or mean.op_type not in _SUMS else [difference, mean]
    return chain + _users(index, root)


def _users(index: GraphIndex, root: Any) -> list[Any]:
    """Return the Div or Mul that read a root, through a Reciprocal where there is one."""
    users = [node for node, _ in index.readers.get(root.output[0], ()) if node.op_type in ("Div", "Mul", "Reciprocal")]
    return users + [user for node in users if node.op_type == "Reciprocal" for user in _users(index, node)]


def _softmax(index: GraphIndex, exponential: Any) -> list[Any]:
    """Match [Sub,] Exp, ReduceSum, Div."""
    readers = [node for node, _ in index.readers.get(exponential.output[0], ())]
    for total in (node for node in readers if node.op_type == "ReduceSum"):
        divides = [node for node in readers if node.op_type == "Div" and node.input[1] == total.output[0]]
        if divides:
            before = index.producer.get(exponential.input[0])
            shift = [before] if before is not None and before.op_type == "Sub" else []
            return [*shift, exponential, total, *divides]
    return []


def _is_root(index: GraphIndex, node: Any) -> bool:
    exponent = index.constant(node.input[1])
    return exponent is not None and exponent.size == 1 and abs(float(exponent.item())) == 0.5
