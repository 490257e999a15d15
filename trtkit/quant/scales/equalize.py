"""Conv -> Relu or Clip -> Conv with channels of unlike range -> the same function with channels of like range.

A quantized activation has one scale for all its channels, so that a channel a hundredth as wide as the widest is left
with two or three codes. Relu is positively homogeneous, k * relu(x) = relu(k * x), hence

    conv2(relu(conv1(x)), w2) = conv2(relu(k * conv1(x)), w2 / k)        k > 0, one a channel

and k can even the ranges out. Source: Nagel et al., Data-Free Quantization Through Weight Equalization and Bias
Correction, 2019 (arXiv:1906.04721), section 4.1; here weights have a scale for each output channel, so what remains to
be evened out is the activation, by its observed ranges, against the input channels of the second weight:

  second layer depthwise   every channel has a weight scale of its own, so k costs nothing: all channels become equal
  otherwise                k = sqrt(w / a), half way between equal activations (a) and equal weight columns (w)

A Clip with an upper bound u (ReLU6) keeps its meaning only where the bound is not reached before or after, so there a
channel is at most widened until its largest calibrated value is half of u. HardSwish, Sigmoid and others are not
homogeneous and are left alone.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from trtkit.quant.index import GraphIndex, as_tensor
from trtkit.quant.placement import has_bias, is_depthwise
from trtkit.ranges import CalibrationTable
from trtkit.tensors import Array

__all__ = ["equalize", "replace_constants"]

logger = logging.getLogger(__name__)

_WIDEST_FACTOR = 1024.0
_HEADROOM = 2.0
"""Values up to so many times the largest calibrated one still pass below the bound of a Clip."""


@dataclass(frozen=True)
class _Pair:
    """first -> activation -> second, with nothing else reading in between."""

    first: Any
    activation: Any
    second: Any
    bound: float


def equalize(model: onnx.ModelProto, table: CalibrationTable) -> tuple[onnx.ModelProto, CalibrationTable, int]:
    """Return a model that computes the same with channel ranges evened out, its table, and how many tensors changed.

    Args:
        model: FP32, weights as initializers; it is not changed.
        table: Its calibration, with channel ranges.

    Returns:
        The equalized model; the table that a calibration of it would give, except that equalized tensors are known by
        their range alone; the number of equalized tensors. Where there is nothing to equalize the arguments come back.
    """
    index = GraphIndex(model)
    constants: dict[tuple[str, int], Array] = {}
    equalized = 0
    for pair in _pairs(index, table):
        tensor = pair.activation.output[0]
        weights = [_current(index, constants, node, 1) for node in (pair.first, pair.second)]
        axis = 0 if is_depthwise(index, pair.second) else 1
        factors = _factors(table.channel_ranges[tensor].amax, weights[1], pair.bound, free=axis == 0)
        if np.all(factors == 1):
            continue
        constants[pair.first.output[0], 1] = weights[0] * _along(factors, 0, weights[0].ndim)
        constants[pair.second.output[0], 1] = weights[1] / _along(factors, axis, weights[1].ndim)
        if has_bias(pair.first):
            constants[pair.first.output[0], 2] = _current(index, constants, pair.first, 2) * factors
        table = table.with_scaled(tensor, factors)
        equalized += 1
    logger.info("Equalized %d tensors between convolutions", equalized)
    return (replace_constants(model, constants) if equalized else model), table, equalized


def replace_constants(model: onnx.ModelProto, values: dict[tuple[str, int], Array]) -> onnx.ModelProto:
    """Return a copy of a model in which constant operands have other values; what else shared them keeps the old ones.

    Args:
        model: It is not changed.
        values: (first output of a node, input number) -> the new value.
    """
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    index = GraphIndex(changed)
    for (output, position), value in values.items():
        node = index.producer[output]
        name = index.new_name(f"{node.input[position]}_scaled")
        changed.graph.initializer.append(as_tensor(name, value.astype(np.float32)))
        node.input[position] = name
    read = {name for node in index.nodes for name in node.input} | index.captured | set(index.outputs)
    for number in reversed(range(len(changed.graph.initializer))):
        if changed.graph.initializer[number].name not in read:
            del changed.graph.initializer[number]
    return changed


def _pairs(index: GraphIndex, table: CalibrationTable) -> list[_Pair]:
    found = []
    for first in index.nodes:
        activation = index.activation_after(first, ("Relu", "Clip")) if _is_plain(index, first) else None
        if activation is None or activation.output[0] not in table.channel_ranges:
            continue
        second = index.only_reader(activation.output[0])
        if second is None or not _is_plain(index, second) or second.input[0] != activation.output[0]:
            continue
        bounds = index.clip_bounds(activation)
        if bounds is not None and bounds[0] == 0 and _reads_every_channel(index, second):
            found.append(_Pair(first, activation, second, bounds[1]))
    return found


def _is_plain(index: GraphIndex, node: Any) -> bool:
    return node.op_type == "Conv" and all(index.constant(name) is not None for name in node.input[1:] if name)


def _reads_every_channel(index: GraphIndex, node: Any) -> bool:
    """Whether input channels can be told apart in the weight: depthwise with one output a channel, or one group."""
    weight = index.constant(node.input[1])
    assert weight is not None
    groups = next((item.i for item in node.attribute if item.name == "group"), 1)
    return groups == 1 or (is_depthwise(index, node) and groups == len(weight))


def _current(index: GraphIndex, constants: dict[tuple[str, int], Array], node: Any, position: int) -> Array:
    if (node.output[0], position) in constants:
        return constants[node.output[0], position]
    value = index.constant(node.input[position])
    assert value is not None
    return value


def _factors(amax: Array, weight: Array, bound: float, *, free: bool) -> Array:
    """Return one factor a channel; dead channels keep theirs."""
    live = amax > 1e-6 * amax.max(initial=0.0)
    if not live.any():
        return np.ones(len(amax))
    factors = amax.max() / np.where(live, amax, 1.0).astype(np.float64)
    if not free:
        columns = _columns(weight)
        factors = np.sqrt(factors * columns / np.median(columns[live]))
    factors = np.clip(factors, 1 / _WIDEST_FACTOR, _WIDEST_FACTOR)
    if np.isfinite(bound):
        factors = np.clip(factors, 1.0, np.maximum(bound / (_HEADROOM * np.maximum(amax, 1e-30)), 1.0))
    return np.where(live, factors, 1.0)


def _columns(weight: Array) -> Array:
    """Return the largest share that each input channel has of an output channel's largest weight, shape (C_in,)."""
    rows = np.abs(weight.reshape(*weight.shape[:2], -1)).max(axis=2)
    shares = rows / np.maximum(rows.max(axis=1, keepdims=True), 1e-30)
    return np.asarray(np.maximum(shares.max(axis=0), 1e-6))


def _along(factors: Array, axis: int, rank: int) -> Array:
    return factors.reshape([-1 if i == axis else 1 for i in range(rank)])
