"""Weighted nodes: their biases, the channel axis of their weights, and what kind of convolution they are."""

from __future__ import annotations

from typing import Any

import numpy as np

from trtkit.quant.index import GraphIndex, attribute, node_name
from trtkit.tensors import Array

__all__ = ["end_layers", "has_bias", "is_depthwise", "row_bias", "weight_axis"]


def is_depthwise(index: GraphIndex, node: Any) -> bool:
    """Whether a node is a Conv in which every output channel reads one input channel."""
    if node.op_type != "Conv" or attribute(node, "group", 1) == 1:
        return False
    weight = index.initializers.get(node.input[1])
    return weight is not None and weight.dims[1] == 1


def row_bias(index: GraphIndex, node: Any) -> Array | None:
    """Return a weighted node's bias as one value an output channel: (C,), or (1,) for all; 0 where there is none.

    None where it is something else: computed, different from row to row of a Gemm, or in a Gemm with alpha or beta.
    """
    if attribute(node, "alpha", 1.0) != 1.0 or attribute(node, "beta", 1.0) != 1.0:
        return None
    if not has_bias(node):
        return np.zeros(1, np.float32)
    bias = index.constant(node.input[2])
    return bias.reshape(-1) if bias is not None and (bias.ndim < 2 or bias.shape[0] == 1) else None


def has_bias(node: Any) -> bool:
    """Whether a weighted node has a third input."""
    return len(node.input) > 2 and bool(node.input[2])


def weight_axis(node: Any, position: int, rank: int) -> int | None:
    """Return the output-channel axis of a weighted node's constant operand: the only axis TensorRT fuses.

    Source: TensorRT developer guide, explicit quantization: Conv axis 0, ConvTranspose axis 1, MatMul [K, N] axis 1,
    Gemm axis 1, or 0 with transB. A left operand, or a grouped ConvTranspose (where axis 1 is C_out / group), gets one
    scale.
    """
    if node.op_type == "Conv":
        return 0
    if node.op_type == "ConvTranspose":
        return 1 if attribute(node, "group", 1) == 1 else None
    if position != 1 or rank < 2:
        return None
    if node.op_type == "Gemm":
        return 0 if attribute(node, "transB", 0) else 1
    return rank - 1 if rank == 2 else None


def end_layers(index: GraphIndex) -> set[str]:
    """Return the names of the first and the last weighted layers, in the order of the graph; empty without layers.

    The first reads the input through nothing that has weights, the last is what the outputs come from: both work on
    raw values, and are where most networks lose most (pytorch-quantization, TensorRT's documentation).
    """
    layers = [node_name(node) for node in index.nodes if node.op_type in ("Conv", "ConvTranspose", "Gemm", "MatMul")
              and any(index.constant(name) is not None for name in node.input[:2])]
    return {layers[0], layers[-1]} if layers else set()
