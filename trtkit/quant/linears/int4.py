"""FP32 graph -> MatMul and Gemm weights in INT4 with a scale a block, the rest in FP16: smaller weights, same layers.

    MatMul(x, w [K, N])  ->  MatMul(x, DQ(w_int4 [K, N], s [K / block, N], axis = 0, block_size = block))

Blocks lie along K: TensorRT 10 and later unpack such weights inside the product and fuse no other layout. A Gemm with
transB has its weight turned around first. Activations and convolutions stay FP16.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto

from trtkit.findings import some_of
from trtkit.precision import NodeSelector, Rounding
from trtkit.quant.floats.half import FP16
from trtkit.quant.floats.mixed import half_scale
from trtkit.quant.index import GraphIndex, as_tensor, attribute, hide_initializers, node_name, store_nodes
from trtkit.quant.scales.blocks import BlockWeight, quantize_blocks
from trtkit.tensors import Array

__all__ = ["BLOCK_OPSET", "insert_int4"]

BLOCK_OPSET = 21
"""First ONNX opset with INT4 and blocks."""

_BLOCKS = (128, 64, 32, 16)
"""Sizes that TensorRT-RTX 1.7 builds."""

_SMALLEST = 4096
"""Weights of fewer elements stay: scales and the unpacking cost what the bits save."""

_NOTHING = NodeSelector()


def insert_int4(model: onnx.ModelProto, *, block: int, rounding: Rounding,
                keep: NodeSelector = _NOTHING) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """Return a copy with blocked INT4 weights, still float32 otherwise, and notes on what was left and why.

    Args:
        model: FP32, opset 21 or later, weights as initializers.
        block: Rows of K that share a scale; a smaller one of 64, 32, 16 where it does not divide K.
        rounding: NEAREST, or ADAPTIVE for the least squared error of each block.
        keep: Nodes that keep their weights.

    Raises:
        SpecError: A keep selector matches nothing.
    """
    made = onnx.ModelProto()
    made.CopyFrom(model)
    hide_initializers(made)
    index = GraphIndex(made)
    kept = keep.select((node_name(node), node.op_type) for node in index.nodes)
    dequantized: dict[tuple[str, bool], str] = {}
    before: dict[int, Any] = {}
    left: dict[str, list[str]] = {}
    count = 0
    for node in index.nodes:
        weight = _weight(index, node)
        if weight is None:
            continue
        fitting = next((size for size in _BLOCKS if size <= block and weight.shape[0] % size == 0), 0)
        reason = "asked for" if node_name(node) in kept else _unfit(weight, fitting)
        if reason:
            left.setdefault(reason, []).append(node_name(node))
            continue
        turned = node.op_type == "Gemm" and bool(attribute(node, "transB", 0))
        key = (node.input[1], turned)
        if key not in dequantized:
            before[id(node)] = _dequantize(made.graph, index, node.input[1], quantize_blocks(
                weight, fitting, rounding, symmetric=True))
            dequantized[key] = before[id(node)].output[0]
        node.input[1] = dequantized[key]
        if turned:
            _clear(node, "transB")
        count += 1
    nodes = [each for node in index.nodes for each in (before.get(id(node)), node) if each is not None]
    store_nodes(made.graph, index, nodes, list(made.graph.initializer))
    return made, (f"{count} weights in INT4, blocks of {block}, {rounding.value} rounding",
                  *(f"weights left, {reason}: {some_of(names)}" for reason, names in left.items()))


def _weight(index: GraphIndex, node: Any) -> Array | None:
    """Return the constant right operand of a product as [K, N]; None where there is none of rank 2."""
    if node.op_type not in ("MatMul", "Gemm"):
        return None
    stored = index.initializers.get(node.input[1])
    if stored is None or len(stored.dims) != 2 or stored.data_type != TensorProto.FLOAT:
        return None
    value = index.constant(node.input[1])
    assert value is not None
    return value.T if node.op_type == "Gemm" and attribute(node, "transB", 0) else value


def _unfit(weight: Array, block: int) -> str:
    rows, columns = weight.shape
    if not block:
        return f"K = {rows} is no multiple of {_BLOCKS[-1]}"
    if weight.size < _SMALLEST:
        return f"{rows} x {columns} elements are too few to gain"
    if not np.isfinite(weight).all() or np.abs(weight).max() > FP16.largest:
        return f"values beyond FP16's {FP16.largest:.0f}"
    return ""


def _dequantize(graph: onnx.GraphProto, index: GraphIndex, name: str, weight: BlockWeight) -> Any:
    """Store integers and scales; return the DequantizeLinear that reads them."""
    values, scale = index.new_name(f"{name}_int4"), index.new_name(f"{name}_scale")
    graph.initializer.append(TensorProto(name=values, data_type=TensorProto.INT4, dims=weight.values.shape,
                                         raw_data=_packed(weight.values)))
    graph.initializer.append(as_tensor(scale, half_scale(weight.scale)))
    output = index.new_name(f"{name}_dequantized")
    return onnx.helper.make_node("DequantizeLinear", [values, scale], [output], name=f"{output}_DequantizeLinear",
                                 axis=0, block_size=weight.block)


def _packed(values: Array) -> bytes:
    """Return two 4-bit integers a byte, the first one in the lower half (ONNX TensorProto, INT4)."""
    flat = values.reshape(-1).view(np.uint8) & 0x0F
    flat = np.append(flat, np.uint8(0)) if flat.size % 2 else flat
    return (flat[::2] | (flat[1::2] << 4)).tobytes()


def _clear(node: Any, name: str) -> None:
    rest = [item for item in node.attribute if item.name != name]
    del node.attribute[:]
    node.attribute.extend(rest)
