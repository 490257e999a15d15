"""FP32 graph with Q/DQ -> the same with FP16 between: INT8 or FP8 layers, everything else in FP16.

    DQ(Q(x)) -> Conv(DQ(w), b) -> Relu        x, b and every scale become float16 (ONNX opset 19)

TensorRT takes the type of a DQ's output from its scale, so FP16 scales are what makes a strongly typed network mixed.
float16 holds few small numbers: a weight's scale below 2**-14 goes up to the next one and its integers are rounded
anew; an activation whose scale would lose more than 1 part in 16 keeps its Q/DQ pair in FP32.
"""

from __future__ import annotations

import glob
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto

from trtkit.precision import NodeSelector
from trtkit.quant.floats.half import FP16
from trtkit.quant.floats.typed import type_graph
from trtkit.quant.index import GraphIndex, as_tensor, attribute, node_name
from trtkit.quant.placement import is_depthwise
from trtkit.tensors import Array

__all__ = ["SCALE_OPSET", "SMALLEST_WEIGHT", "half_scale", "keep_small", "type_quantized"]

SCALE_OPSET = 19
"""First ONNX opset in which scales may be float16."""

_WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")

_SMALLEST_SCALE = 2.0**-20
"""float16 steps are 2**-24 here: rounding up costs at most 1/16."""

SMALLEST_WEIGHT = 1 << 16
"""Elements below which a layer stays FP16 on TensorRT-RTX 1.7. It scales and rounds around each quantized layer in
generated kernels, 130 kB of the engine each, which read and write the activations once more; and it stores depthwise
weights in INT8 as dense groups of 32 channels. Engine of EfficientNet-Lite0: FP16 9.7 MB, all layers quantized 17.6,
without depthwise ones 10.4, without those below this limit 7.8. Products of two activations have no weights at all:
ViT-tiny, FP16 14.9 MB, with the attention in INT8 18.3, without 13.7."""


def keep_small(model: onnx.ModelProto, keep: NodeSelector) -> NodeSelector:
    """Return a selector of what `keep` selects and of the layers that TensorRT-RTX gains nothing from quantizing.

    Args:
        model: FP32, weights as initializers.
        keep: What the user selects.
    """
    index = GraphIndex(model)
    small = []
    for node in index.nodes:
        if node.op_type in _WEIGHTED:
            weight = index.initializers.get(node.input[1])
            if weight is None or int(np.prod(weight.dims)) < SMALLEST_WEIGHT or is_depthwise(index, node):
                small.append(glob.escape(node_name(node)))
    return replace(keep, names=(*keep.names, *small))


def half_scale(scale: Array) -> Array:
    """Return the float16 numbers that stand for scales, as float32: the nearest, below 2**-14 the next one up.

    Args:
        scale: float32, > 0, at most 65504, any shape.
    """
    steps = np.ceil(scale.astype(np.float64) / FP16.smallest) * FP16.smallest
    return np.where(scale < FP16.smallest_normal, steps, FP16.rounded(scale)).astype(np.float32)


def type_quantized(model: onnx.ModelProto, reasons: dict[str, str]) -> dict[str, str]:
    """Give a quantized model FP16 tensors wherever nothing is kept, in place.

    Args:
        model: FP32 with Q/DQ, opset 19 or later, types inferred, weights as initializers.
        reasons: Why nodes stay in FP32, by name (trtkit.quant.floats.keeplist.fp32_nodes).

    Returns:
        `reasons` and those of the Q/DQ pairs that stay in FP32.
    """
    index = GraphIndex(model)
    kept = dict(reasons)
    for node in index.nodes:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            scale = index.constant(node.input[1])
            if scale is None or scale.dtype != np.float32:
                continue
            if node.op_type == "DequantizeLinear" and node.input[0] in index.initializers:
                _fit_weight(index, node, scale)
            elif float(scale.min()) >= _SMALLEST_SCALE and float(scale.max()) <= FP16.largest:
                _replace(index, node.input[1], half_scale(scale))
            else:
                kept[node_name(node)] = f"its scale {float(scale.min()):.3g} is none of FP16's"
    type_graph(model, index, FP16, kept)
    return kept


def _fit_weight(index: GraphIndex, node: Any, scale: Array) -> None:
    """Let a weight's scales be float16 numbers; integers whose scale moves much are rounded anew."""
    fitted = half_scale(np.minimum(scale, FP16.largest))
    stored = index.initializers[node.input[0]]
    if stored.data_type == TensorProto.INT8 and (scale < FP16.smallest_normal).any():
        values = index.constant(node.input[0])
        assert values is not None
        ratio = scale.astype(np.float64) / fitted
        if scale.ndim:
            axis = attribute(node, "axis", 1) % values.ndim
            ratio = ratio.reshape([-1 if position == axis else 1 for position in range(values.ndim)])
        _replace(index, node.input[0], np.rint(values * ratio).astype(np.int8))
    _replace(index, node.input[1], fitted)


def _replace(index: GraphIndex, name: str, value: Array) -> None:
    index.initializers[name].CopyFrom(as_tensor(name, value))
