"""Convolutions of many inputs -> the same, so that ONNX Runtime computes them as matrix products on a CPU with AMX.

    DQ(w, s, 0) -> Conv     becomes     DQ(w - 1, s, -1) -> Conv

MLAS has two kernels for them: MlasConvSym, which walks over the windows with VNNI and takes weights with zero point 0
only, and MlasGemm, which uses the tile registers of AMX (8 times as many products a cycle) but must gather the windows
and needs long sums to pay. A zero point of -1 selects the second one; weights lie in [-127, 127], so the integers are
exact, and so are the products. Measured with ONNX Runtime 1.32 on a Xeon with AMX, one thread, layers of ResNet-50 and
MobileNetV2 at batch 1: 1x1 with 256 inputs a sum 0.8 to 1.1 times as fast, with 320 to 384 1.1 to 1.3, with 1024 1.4 to
1.8; 3x3 with 576 0.85 times, with 1152 1.3, with 2304 1.7; more at larger batches.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from trtkit.quant.index import GraphIndex, attribute

__all__ = ["choose_matrix_products"]

_SHORTEST_SUM = {True: 320, False: 1024}
"""Products in a sum from which on MlasGemm is faster: pointwise convolutions, and others."""


def choose_matrix_products(model: onnx.ModelProto) -> int:
    """Shift the zero point of the weights of every wide convolution, in place.

    Args:
        model: With Q/DQ, weights INT8 with zero points.

    Returns:
        How many weights were shifted.
    """
    index = GraphIndex(model)
    return sum(_shift(index, node) for node in index.nodes if node.op_type == "DequantizeLinear")


def _shift(index: GraphIndex, dequantize: Any) -> bool:
    readers = index.readers.get(dequantize.output[0], ())
    if len(dequantize.input) < 3 or not readers or any(index.only_reader(name) is not dequantize
                                                       for name in (dequantize.input[0], dequantize.input[2])):
        return False
    values, zero = index.constant(dequantize.input[0]), index.constant(dequantize.input[2])
    if values is None or zero is None or values.dtype != np.int8 or zero.any() or (values == -128).any():
        return False
    if not all(position == 1 and _is_wide(node, values.shape) for node, position in readers):
        return False
    for name, shifted in ((dequantize.input[0], values - np.int8(1)), (dequantize.input[2], zero - np.int8(1))):
        index.initializers[name].CopyFrom(numpy_helper.from_array(shifted.astype(np.int8), name))
    return True


def _is_wide(node: Any, shape: tuple[int, ...]) -> bool:
    """Whether a node is a Conv of one group with a long enough sum; weight (C_out, C_in, ...)."""
    if node.op_type != "Conv" or attribute(node, "group", 1) != 1:
        return False
    window = int(np.prod(shape[2:]))
    return shape[1] * window >= _SHORTEST_SUM[window == 1]
