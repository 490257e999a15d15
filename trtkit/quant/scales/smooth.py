"""LayerNormalization -> MatMul with outlier channels -> the same function with the outliers moved into the weights.

A few channels behind a LayerNormalization of a trained transformer are many times as wide as the others and take the
whole range of the activation's one scale. Dividing each channel by s costs nothing, as the normalization's own scale
and bias absorb it, and the weights are multiplied by s:

    MatMul(LN(x; g, b), W) = MatMul(LN(x; g / s, b / s), diag(s) W)      s_j = max|X_j|^a / max|W_j|^(1 - a)

Source: Xiao et al., SmoothQuant, 2022 (arXiv:2211.10438), equation 4; a = 0.5 there for most models.
"""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import onnx

from trtkit.quant.index import GraphIndex, attribute
from trtkit.quant.scales.equalize import replace_constants
from trtkit.ranges import CalibrationTable
from trtkit.tensors import Array

__all__ = ["smooth"]

logger = logging.getLogger(__name__)

_WIDEST_FACTOR = 1024.0


def smooth(model: onnx.ModelProto, table: CalibrationTable,
           alpha: float) -> tuple[onnx.ModelProto, CalibrationTable, int]:
    """Return a model that computes the same with activation outliers moved into weights, its table, and how many.

    Only what no other node than MatMul and Gemm with constant weights reads is smoothed.

    Args:
        model: FP32, weights as initializers; it is not changed.
        table: Its calibration, with channel ranges.
        alpha: Share of the outliers that moves, 0 to 1.

    Returns:
        The smoothed model; the table that a calibration of it would give, except that smoothed tensors are known by
        their range alone; the number of smoothed tensors. Where there is nothing to smooth the arguments come back.
    """
    index = GraphIndex(model)
    constants: dict[tuple[str, int], Array] = {}
    smoothed = 0
    for norm in index.nodes:
        if norm.op_type != "LayerNormalization" or norm.output[0] not in table.channel_ranges:
            continue
        readers = _readers(index, norm)
        amax = table.channel_ranges[norm.output[0]].amax
        if not readers or not _scales_channels(index, norm, len(amax)):
            continue
        weights = np.max([np.abs(_rows(index, node)).max(axis=1) for node in readers], axis=0)
        factors = _factors(amax, weights, alpha)
        for position in (1, 2):
            value = index.constant(norm.input[position]) if len(norm.input) > position else None
            if value is not None:
                constants[norm.output[0], position] = value / factors
        for node in readers:
            value = index.constant(node.input[1])
            assert value is not None
            constants[node.output[0], 1] = value * (factors if _is_transposed(node) else factors[:, None])
        table = table.with_scaled(norm.output[0], 1 / factors)
        smoothed += 1
    logger.info("Smoothed the inputs behind %d LayerNormalizations", smoothed)
    return (replace_constants(model, constants) if smoothed else model), table, smoothed


def _readers(index: GraphIndex, norm: Any) -> list[Any]:
    """Return the nodes that multiply a normalization's output by constant matrices; none when others read it, too."""
    name = norm.output[0]
    if name in index.outputs or name in index.captured:
        return []
    nodes = []
    for node, position in index.readers.get(name, ()):
        weight = index.constant(node.input[1]) if node.op_type in ("MatMul", "Gemm") and position == 0 else None
        if weight is None or weight.ndim != 2 or attribute(node, "transA", 0):
            return []
        nodes.append(node)
    return nodes


def _scales_channels(index: GraphIndex, norm: Any, channels: int) -> bool:
    """Whether a normalization over the last axis has a constant scale, and a constant bias or none, a channel each."""
    values = [index.constant(name) for name in norm.input[1:] if name]
    return all(value is not None and value.shape == (channels,) for value in values)


def _is_transposed(node: Any) -> bool:
    return bool(node.op_type == "Gemm" and attribute(node, "transB", 0))


def _rows(index: GraphIndex, node: Any) -> Array:
    """Return the weight with one row an input channel."""
    value = index.constant(node.input[1])
    assert value is not None
    return value.T if _is_transposed(node) else value


def _factors(amax: Array, weights: Array, alpha: float) -> Array:
    """Return what each channel is divided by; dead channels keep their scale."""
    live = (amax > 0) & (weights > 0)
    x, w = np.where(live, amax, 1.0).astype(np.float64), np.where(live, weights, 1.0).astype(np.float64)
    factors = np.where(live, x**alpha / w ** (1 - alpha), 1.0)
    if live.any():
        middle = np.exp(np.log(factors[live]).mean())
        factors = np.where(live, np.clip(factors / middle, 1 / _WIDEST_FACTOR, _WIDEST_FACTOR), 1.0)
    return np.asarray(factors)
