"""Float bias -> INT32 steps of a power of two a channel, the same numbers: it keeps a float layer in float.

ONNX Runtime (1.21 and later, WeightBiasQuantization) rounds the weights of every Conv, ConvTranspose and Gemm that
stands between DequantizeLinear and QuantizeLinear to INT8 with a single scale, whoever chose to leave them in float. It
lets a layer alone whose bias is no plain constant, so such a layer gets its bias from a DequantizeLinear:

    b = m * 2**e, 0.5 <= |m| < 1      ->      steps = m * 2**24, scale = 2**(e - 24)
"""

from __future__ import annotations

from typing import Any

import numpy as np

from trtkit.quant.index import GraphIndex, attribute
from trtkit.quant.placement import has_bias
from trtkit.tensors import Array

__all__ = ["endangered_bias", "exact_steps"]

_MANTISSA_BITS = 24
_SMALLEST_EXPONENT = -126


def endangered_bias(index: GraphIndex, node: Any) -> Array | None:
    """Return the constant bias of a float layer, zeros where it has none; None where ONNX Runtime lets it alone.

    Returns:
        Shape (C_out,) or as the bias is stored, float32.
    """
    if node.op_type not in ("Conv", "ConvTranspose", "Gemm"):
        return None
    weight = index.constant(node.input[1])
    if weight is None:
        return None
    if has_bias(node):
        bias = index.constant(node.input[2])
        return bias if bias is not None and bias.ndim == 1 else None
    if node.op_type == "Gemm":
        return np.zeros(weight.shape[0 if attribute(node, "transB", 0) else 1], np.float32)
    channels = weight.shape[0] if node.op_type == "Conv" else weight.shape[1] * attribute(node, "group", 1)
    return np.zeros(channels, np.float32)


def exact_steps(bias: Array) -> tuple[Array, Array]:
    """Return integers and scales whose products are the bias.

    Args:
        bias: float32, shape (C,).

    Returns:
        Steps, int32, and scales, float32 powers of two, shape (C,) each. Exact from 2**-102 up, below it to 2**-127.
    """
    _, exponent = np.frexp(bias)
    exponent = np.maximum(exponent - _MANTISSA_BITS, _SMALLEST_EXPONENT)
    steps = np.rint(np.ldexp(bias.astype(np.float64), -exponent))
    return steps.astype(np.int32), np.ldexp(np.float32(1.0), exponent).astype(np.float32)
