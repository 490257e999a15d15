"""Model + input shapes -> multiply-accumulates of each weighted node: what there is to gain by running it in INT8."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

import onnx

from trtkit.graph import infer_shapes
from trtkit.quant.index import attribute, node_name

__all__ = ["WEIGHTED_OPS", "count_macs"]

WEIGHTED_OPS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
"""Operators that multiply by matrices: nearly all of a network's arithmetic."""


def count_macs(model: onnx.ModelProto, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    """Return the multiply-accumulates of one run, by node name.

    Args:
        model: Weights as initializers.
        shapes: Of every input, in numbers, such as those of one sample; inner shapes follow from them.

    Returns:
        One entry a Conv, ConvTranspose, Gemm or MatMul of the top-level graph, in order; 0 where a shape depends on
        the data.

    Source: of every output element, the length of its dot product (ONNX operator specifications).
    """
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    del fixed.graph.value_info[:]
    for info in fixed.graph.input:
        if info.name in shapes:
            del info.type.tensor_type.shape.dim[:]
            for size in shapes[info.name]:
                info.type.tensor_type.shape.dim.add(dim_value=size)
    for info in fixed.graph.output:
        info.type.tensor_type.ClearField("shape")
    known = _known(infer_shapes(fixed).graph)
    return {node_name(node): _macs(node, known) for node in model.graph.node if node.op_type in WEIGHTED_OPS}


def _known(graph: onnx.GraphProto) -> dict[str, tuple[int, ...]]:
    """Return the shapes of tensors that are known in numbers."""
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    for info in (*graph.value_info, *graph.input, *graph.output):
        dims = info.type.tensor_type.shape.dim
        if info.type.tensor_type.HasField("shape") and all(dim.HasField("dim_value") for dim in dims):
            shapes[info.name] = tuple(dim.dim_value for dim in dims)
    return shapes


def _macs(node: Any, known: Mapping[str, tuple[int, ...]]) -> int:
    data, weight, output = (known.get(name) for name in (node.input[0], node.input[1], node.output[0]))
    if data is None or weight is None or output is None or not data:
        return 0
    if node.op_type == "Conv":
        return prod(output) * prod(weight[1:])
    if node.op_type == "ConvTranspose":
        return prod(data) * prod(weight[1:])
    transposed = node.op_type == "Gemm" and attribute(node, "transA", 0)
    return prod(output) * (data[0] if transposed else data[-1])
