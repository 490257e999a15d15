"""A layer's shape -> a tiny ONNX model that holds the layer as it stands in a network, and the same without it.

    x -> 1x1 Conv, Relu -> layer, activation -> GlobalAveragePool
    x -> 1x1 Conv, Relu                      -> GlobalAveragePool

The convolution before and the pooling behind bring the values into the layout and the type that a runtime keeps between
layers (blocks of channels, INT8), so that no conversion at the edge of a model is taken for the layer's own time. A
layer that reads the model's input has no convolution before it. Matrix products get a matrix product before them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import onnx
from onnx import helper

from trtkit.compress.pruning.layers import LayerShape
from trtkit.quant.index import as_tensor
from trtkit.tensors import Array

__all__ = ["probe"]

_ENTRY = 32
"""Channels of the input of a probe: few, so that the layer before costs little, and as many as the widest vector."""


def probe(layer: LayerShape, *, with_layer: bool, opset: int) -> onnx.ModelProto:
    """Return the model that times a layer, or the one that it is compared with.

    Args:
        layer: What to time, at its channels.
        with_layer: False leaves it out.
        opset: Of the model.

    Returns:
        A model with the input "x" and the output "y". Every output channel has the same weights: they do not change the
        time, and the model compresses to nearly nothing.
    """
    parts = _Parts()
    entry = layer.inputs if layer.first else _ENTRY
    if not layer.first:
        before = replace(layer, groups=1, inputs=_ENTRY, outputs=layer.inputs, attributes=(), bias=True,
                         activation="Relu" if layer.is_convolution else "")
        if layer.is_convolution:
            before = replace(before, op_type="Conv", attributes=(("kernel_shape", (1,) * (len(layer.data) - 2)),))
        parts.add(before)
    if with_layer:
        parts.add(layer)
    if len(layer.data) > 2 or not parts.nodes:
        parts.node("GlobalAveragePool" if len(layer.data) > 2 else "Relu")
    axis = 1 if layer.is_convolution else len(layer.data) - 1
    shape = [entry if place == axis else dim for place, dim in enumerate(layer.data)]
    parts.nodes[-1].output[0] = "y"
    graph = helper.make_graph(
        parts.nodes, "probe", [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)],
        [as_tensor(name, value) for name, value in parts.weights.items()])
    opsets = [helper.make_opsetid("", opset)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=helper.find_min_ir_version_for(opsets))
    return onnx.shape_inference.infer_shapes(model, strict_mode=True)


class _Parts:
    """Nodes in a row, and their weights."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: dict[str, Array] = {}
        self.last = "x"

    def node(self, op_type: str, *more: str, attributes: Mapping[str, object] | None = None) -> None:
        """Append a node that reads the last value and these."""
        name = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(op_type, [self.last, *more], [name], name=name, **(attributes or {})))
        self.last = name

    def constant(self, value: Array) -> str:
        """Return the name of a new initializer."""
        name = f"w{len(self.weights)}"
        self.weights[name] = value
        return name

    def add(self, layer: LayerShape) -> None:
        """Append a layer and its activation."""
        groups = layer.groups or layer.inputs
        operands = [self.constant(_weight(layer, groups))]
        if layer.bias and layer.op_type != "MatMul":
            operands.append(self.constant(np.zeros(layer.outputs, np.float32)))
        attributes: dict[str, object] = dict(layer.attributes)
        if groups > 1:
            attributes["group"] = groups
        self.node(layer.op_type, *operands, attributes=attributes)
        self._activate(layer.activation)

    def _activate(self, activation: str) -> None:
        if activation == "Silu":
            value = self.last
            self.node("Sigmoid")
            self.node("Mul", value)
        elif activation == "Clip":
            self.node("Clip", self.constant(np.float32(0)), self.constant(np.float32(6)))
        elif activation:
            self.node(activation)


def _weight(layer: LayerShape, groups: int) -> Array:
    """Return weights of unit gain, shape as ONNX has it, the same for every output channel."""
    kernel = dict(layer.attributes).get("kernel_shape", ())
    assert not isinstance(kernel, str)
    terms = (layer.inputs // groups) * math.prod(kernel)
    row = np.random.default_rng(0).standard_normal(terms).astype(np.float32) / np.float32(math.sqrt(terms))
    if not layer.is_convolution:
        return np.repeat(row[:, None], layer.outputs, axis=1)
    row = row.reshape(1, layer.inputs // groups, *kernel)
    if layer.op_type == "Conv":
        return np.repeat(row, layer.outputs, axis=0)
    per_group = np.repeat(np.swapaxes(row, 0, 1), layer.outputs // groups, axis=1)
    return np.concatenate([per_group] * groups)
