"""FP32 ONNX -> linear layers with weights in blocks of 4 bits, for ONNX Runtime on a CPU; no calibration.

    y = x @ w + b      becomes      y = MatMulNBits(x, w_4bit, scales, zero_points) + b

com.microsoft MatMulNBits keeps w as (N, K / block, block / 2) bytes, the element of lower k in the lower half; zero
points lie two to a byte along K / block. accuracy_level 4 lets the kernel round x to INT8, a block at a time, and
multiply integers. Source: onnxruntime/docs/ContribOperators.md, com.microsoft.MatMulNBits.

It is made for what is short of memory or of its bandwidth: one or a few rows of x against large matrices (language
models). ViT-tiny, 197 rows against matrices of 192 columns, is slower than in FP32.
"""

from __future__ import annotations

import numpy as np
import onnx

from trtkit.precision import QuantSpec
from trtkit.quant.linears.linear import Linear, LinearEditor, replace_linears
from trtkit.quant.scales.blocks import BlockWeight, quantize_blocks
from trtkit.tensors import Array

__all__ = ["to_matmul_nbits"]

_DOMAIN = "com.microsoft"
_INT8_COMPUTE = 4
"""accuracy_level: the least precise type that x may be rounded to."""


def to_matmul_nbits(model: onnx.ModelProto, spec: QuantSpec) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """Return a copy of a model whose linear layers hold their weights in 4 bits.

    Args:
        model: FP32, opset 13 or later, types inferred, weights as initializers.
        spec: Block, rounding, and nodes to keep in floating point.

    Returns:
        The model, and notes for people.

    Raises:
        SpecError: It has no linear layer that can be quantized, or a selector matches nothing.
    """
    weights: dict[tuple[str, bool, float], BlockWeight] = {}

    def replace(editor: LinearEditor, linear: Linear) -> str | None:
        rows, columns = linear.weight.shape
        if rows < spec.block:
            return f"they have fewer than {spec.block} inputs, the block"
        if linear.key not in weights:
            weights[linear.key] = quantize_blocks(linear.weight, spec.block, spec.rounding, symmetric=False)
        weight, name = weights[linear.key], linear.key[0]
        inputs = [linear.source,
                  editor.once(linear.key, f"{name}_int4", lambda: _packed_values(weight)),
                  editor.once(linear.key, f"{name}_scale", lambda: np.ascontiguousarray(weight.scale.T)),
                  editor.once(linear.key, f"{name}_zero_point", lambda: _packed_zero_points(weight))]
        [product] = editor.emit("MatMulNBits", inputs, [f"{linear.node.output[0]}_product"], domain=_DOMAIN, K=rows,
                                N=columns, bits=4, block_size=spec.block, accuracy_level=_INT8_COMPUTE)
        editor.finish(linear, product)
        return None

    changed, notes = replace_linears(model, spec, "INT4", replace)
    if all(entry.domain != _DOMAIN for entry in changed.opset_import):
        changed.opset_import.append(onnx.helper.make_opsetid(_DOMAIN, 1))
    return changed, notes


def _packed_values(weight: BlockWeight) -> Array:
    """Return integers as bytes, uint8, shape (N, blocks, block / 2)."""
    blocks = weight.values.T.reshape(weight.values.shape[1], -1, weight.block)
    return np.asarray(blocks[..., 0::2] | (blocks[..., 1::2] << 4), np.uint8)


def _packed_zero_points(weight: BlockWeight) -> Array:
    """Return zero points as bytes, uint8, shape (N, ceil(blocks / 2))."""
    assert weight.zero_point is not None
    points = weight.zero_point.T
    if points.shape[1] % 2:
        points = np.pad(points, ((0, 0), (0, 1)))
    return np.asarray(points[:, 0::2] | (points[:, 1::2] << 4), np.uint8)
