"""An ONNX model -> the zeros in the weights of each layer: 2:4 sparse, or could be, or scattered.

2:4 sparse: of every four consecutive input channels at most two are not 0, for each output and each place of a
convolution's kernel (TensorRT developer guide, "Sparsity"). Weights are read through Q/DQ pairs, casts and transposes,
so the same holds for a lowered model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from trtkit.errors import GraphError
from trtkit.tensors import Array

__all__ = ["LayerSparsity", "check_two_four", "layer_sparsity"]

_WIDE = 256
_AXES = {"Conv": 1, "ConvTranspose": 0, "Gemm": 0, "MatMul": -2}
"""Operator -> axis of the input channels in its weight."""
_HOLDS_ZEROS = ("QuantizeLinear", "Cast", "Identity")


@dataclass(frozen=True)
class LayerSparsity:
    """The zeros of one layer's weight.

    Attributes:
        name: Of the node.
        op_type: Conv, ConvTranspose, Gemm or MatMul.
        inputs, outputs: Channels; of a grouped convolution the inputs of one group.
        zeros: Share of the weights that are 0, 0 to 1.
        dense_fours: Share of the fours of input channels with more than two that are not 0; 1 where inputs come in no
            fours.
        hindrance: Why TensorRT has no sparse kernel for it; "" when it has one.
    """

    name: str
    op_type: str
    inputs: int
    outputs: int
    zeros: float
    dense_fours: float
    hindrance: str = ""

    @property
    def is_eligible(self) -> bool:
        """Whether TensorRT has sparse kernels for such a layer."""
        return not self.hindrance

    @property
    def is_two_four(self) -> bool:
        """Whether it is eligible and 2:4 sparse."""
        return self.is_eligible and self.dense_fours == 0

    @property
    def is_wide(self) -> bool:
        """Whether it has the 256 input and output channels from which sparse kernels tend to be faster.

        Source: NVIDIA/TensorRT#3849, #4065, by TensorRT's makers.
        """
        return min(self.inputs, self.outputs) >= _WIDE


def layer_sparsity(model: onnx.ModelProto) -> tuple[LayerSparsity, ...]:
    """Return every layer of the main graph whose weight is a constant, in order.

    Args:
        model: FP32, or lowered to any precision; its weights are in memory.
    """
    constants = _Constants(model.graph)
    found = []
    for node in model.graph.node:
        if node.op_type in _AXES:
            layer = _examine(node, constants)
            if layer is not None:
                found.append(layer)
    return tuple(found)


def check_two_four(model: onnx.ModelProto, expected: int) -> tuple[LayerSparsity, ...]:
    """Return the 2:4 sparse layers of a model that must have so many: masks survived export and lowering.

    Raises:
        GraphError: There are fewer; with the layers that nearly are, and the share of their fours that are not.
    """
    layers = layer_sparsity(model)
    sparse = tuple(layer for layer in layers if layer.is_two_four)
    if len(sparse) < expected:
        lost = sorted((layer for layer in layers if layer.is_eligible and not layer.is_two_four),
                      key=lambda layer: layer.dense_fours)[:3]
        told = ", ".join(f"{layer.name} ({layer.dense_fours:.1%} of its fours are dense)" for layer in lost)
        raise GraphError(f"{len(sparse)} layers of the model are 2:4 sparse, {expected} should be. Nearest: "
                         f"{told or 'none'}. Apply the masks after the last optimizer step and export again")
    return sparse


class _Constants:
    """Where the constants of a graph are not 0."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._tensors = {tensor.name: tensor for tensor in graph.initializer}
        self._producers = {name: node for node in graph.node for name in node.output}

    def nonzero(self, name: str) -> Array | None:
        """Return where a tensor is not 0, bool in its shape; None when it is computed."""
        if name in self._tensors:
            return np.asarray(np.asarray(numpy_helper.to_array(self._tensors[name])).astype(np.float32) != 0)
        node = self._producers.get(name)
        if node is None:
            return None
        if node.op_type == "Constant":
            values = [item.t for item in node.attribute if item.name == "value"]
            return np.asarray(numpy_helper.to_array(values[0]) != 0) if values else None
        if node.op_type == "DequantizeLinear":
            return self._dequantized(node)
        if node.op_type in _HOLDS_ZEROS:
            return self.nonzero(node.input[0])
        if node.op_type == "Transpose":
            inner = self.nonzero(node.input[0])
            return None if inner is None else np.asarray(inner.transpose(_attribute(node, "perm", None)))
        return None

    def _dequantized(self, node: Any) -> Array | None:
        """Return where integers differ from the zero point; what a QuantizeLinear makes of 0 is the zero point."""
        stored, zero = self._tensors.get(node.input[0]), self._tensors.get("".join(node.input[2:3]))
        if stored is None or zero is None:
            return self.nonzero(node.input[0])
        integers, points = (np.asarray(numpy_helper.to_array(tensor)).astype(np.float32) for tensor in (stored, zero))
        axis, block = _attribute(node, "axis", 1), _attribute(node, "block_size", 0)
        if block:
            points = np.repeat(points, block, axis).take(range(integers.shape[axis]), axis)
        elif points.size > 1:
            points = points.reshape([-1 if place == axis % integers.ndim else 1 for place in range(integers.ndim)])
        return np.asarray(integers != points)


def _attribute(node: Any, name: str, default: Any) -> Any:
    return next((onnx.helper.get_attribute_value(item) for item in node.attribute if item.name == name), default)


def _examine(node: Any, constants: _Constants) -> LayerSparsity | None:
    axis = 1 if node.op_type == "Gemm" and _attribute(node, "transB", 0) else _AXES[node.op_type]
    weight = constants.nonzero(node.input[1])
    if weight is None and node.op_type == "MatMul":  # W x instead of x W
        weight, axis = constants.nonzero(node.input[0]), -1
    if weight is None or weight.ndim < 2 or not weight.size:
        return None
    groups = _attribute(node, "group", 1)
    inputs = weight.shape[axis]
    others = [size for place, size in enumerate(weight.shape) if place != axis % weight.ndim]
    outputs = others[0] * groups if node.op_type == "ConvTranspose" else others[0 if "Conv" in node.op_type else -1]
    return LayerSparsity(node.name or node.output[0], node.op_type, inputs, outputs, 1 - float(weight.mean()),
                         _dense_fours(weight, axis), _hindrance(node.op_type, weight.ndim, groups, inputs))


def _dense_fours(weight: Array, axis: int) -> float:
    if weight.shape[axis] % 4:
        return 1.0
    fours = np.count_nonzero(np.moveaxis(weight, axis, -1).reshape(-1, 4), axis=1)
    return float((fours > 2).mean())


def _hindrance(op_type: str, rank: int, groups: int, inputs: int) -> str:
    if op_type == "ConvTranspose" or (op_type == "Conv" and rank > 4):
        return f"TensorRT has no sparse kernel for {op_type}{' in three dimensions' if op_type == 'Conv' else ''}"
    if groups > 1:
        return "TensorRT has no sparse kernel for grouped convolutions"
    return f"its {inputs} input channels are no multiple of 4" if inputs % 4 else ""
