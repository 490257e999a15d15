"""The mean error that quantized weights add to an output, from the mean of each input channel.

    E[y'] - E[y] = sum_i (w' - w)_oi E[x_i]

Subtracted from the bias it costs nothing at run time; at padded borders the input mean is smaller and the correction a
little too large. Source: Nagel et al., Data-Free Quantization through Weight Equalization and Bias Correction, 2019,
section 4.2 (here with the observed means in place of those that BatchNorm implies).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from trtkit.quant.index import attribute
from trtkit.tensors import Array

__all__ = ["output_shift"]


def output_shift(node: Any, error: Array, means: Array) -> Array:
    """Return the mean output error of a weighted node.

    Args:
        node: Conv, ConvTranspose, or Gemm with alpha = beta = 1 whose second input is the weight.
        error: Quantized minus original weights, in the node's own layout.
        means: Mean of each input channel, shape (C_in,).

    Returns:
        One value an output channel, shape (C_out,), float32.
    """
    if node.op_type == "Gemm":
        rows = error if attribute(node, "transB", 0) else error.T
        return np.asarray(rows @ means, np.float32)
    groups = attribute(node, "group", 1)
    kernel = error.sum(axis=tuple(range(2, error.ndim)), dtype=np.float64)
    inputs = means.reshape(groups, -1)
    if node.op_type == "Conv":
        shift = np.einsum("goi,gi->go", kernel.reshape(groups, -1, kernel.shape[1]), inputs)
    else:
        shift = np.einsum("gio,gi->go", kernel.reshape(groups, inputs.shape[1], -1), inputs)
        shift /= np.prod(attribute(node, "strides", [1]))  # an output position sees one kernel element in so many
    return np.asarray(shift.reshape(-1), np.float32)
