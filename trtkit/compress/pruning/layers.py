"""An ONNX model -> its weighted layers, as what decides their latency: operator, sizes, activation, and the channels.

What pruning changes, the channels, is kept apart from what it leaves, so that one kind of layer has one row of
latencies over its widths.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import onnx

from trtkit.graph import infer_shapes
from trtkit.quant.index import GraphIndex, attribute
from trtkit.runtime.latency_table import Point

__all__ = ["ACTIVATIONS", "LayerShape", "find_layers"]

ACTIVATIONS = ("Relu", "Clip", "LeakyRelu", "HardSwish", "HardSigmoid", "Sigmoid", "Tanh", "Elu")
"""Operators that runtimes compute together with the layer before them; "Silu" is x * Sigmoid(x)."""

_SPATIAL = ("auto_pad", "dilations", "kernel_shape", "output_padding", "pads", "strides")


@dataclass(frozen=True)
class LayerShape:
    """A weighted layer without its weights.

    Attributes:
        op_type: "Conv", "ConvTranspose", "Gemm" or "MatMul".
        attributes: Kernel, strides and so on, by name.
        groups: Of a convolution; 0 where every channel stays apart (depthwise).
        data: Shape of the input; its channels lie on axis 1 of a convolution, on the last axis else.
        inputs, outputs: Channels.
        bias: Whether it has one.
        activation: One of ACTIVATIONS or "Silu" where that is its only reader; "" else.
        first: Whether it reads an input of the model: its input channels never change, and come as they are fed.
    """

    op_type: str
    attributes: tuple[tuple[str, tuple[int, ...] | str], ...]
    groups: int
    data: tuple[int, ...]
    inputs: int
    outputs: int
    bias: bool = False
    activation: str = ""
    first: bool = False

    @property
    def is_convolution(self) -> bool:
        """Whether it slides over its input."""
        return self.op_type in ("Conv", "ConvTranspose")

    @property
    def point(self) -> Point:
        """What a latency table knows it by."""
        axis = 1 if self.is_convolution else len(self.data) - 1
        size = "x".join("C" if place == axis else str(dim) for place, dim in enumerate(self.data))
        groups = "depthwise" if self.groups == 0 else f"group={self.groups}" if self.groups > 1 else ""
        words = (self.op_type, *(f"{name}={_text(value)}" for name, value in self.attributes), groups,
                 "bias" if self.bias else "", self.activation, f"on {'input ' if self.first else ''}{size}")
        return Point(" ".join(filter(None, words)), self.inputs, self.outputs)


def find_layers(model: onnx.ModelProto) -> list[LayerShape]:
    """Return the layers of a model that have weights, in order.

    Args:
        model: After the target's passes, all sizes fixed. Products of two activations are no layers, nor is what lies
            in subgraphs.
    """
    inferred = infer_shapes(model)
    index = GraphIndex(inferred)
    shapes = {info.name: tuple(int(dim.dim_value) for dim in info.type.tensor_type.shape.dim)
              for info in (*inferred.graph.input, *inferred.graph.value_info, *inferred.graph.output)}
    entries = {info.name for info in inferred.graph.input}
    found = (_shape_of(node, index, shapes, entries) for node in inferred.graph.node)
    return [layer for layer in found if layer is not None]


def _shape_of(node: Any, index: GraphIndex, shapes: Mapping[str, tuple[int, ...]], entries: set[str]
              ) -> LayerShape | None:
    if node.op_type not in ("Conv", "ConvTranspose", "Gemm", "MatMul"):
        return None
    weight, data = index.initializers.get(node.input[1]), shapes.get(node.input[0], ())
    if weight is None or not data or not all(data) or (node.op_type in ("Gemm", "MatMul") and len(weight.dims) != 2):
        return None
    dims = tuple(int(size) for size in weight.dims)
    attributes: dict[str, tuple[int, ...] | str] = {}
    groups = 1
    if node.op_type in ("Conv", "ConvTranspose"):
        groups = int(attribute(node, "group", 1))
        inputs, outputs = data[1], dims[0] if node.op_type == "Conv" else dims[1] * groups
        attributes = {name: value for name in _SPATIAL if (value := _spatial(node, name))}
        attributes.setdefault("kernel_shape", dims[2:])
    else:
        turned = node.op_type == "Gemm" and attribute(node, "transB", 0)
        inputs, outputs = (dims[1], dims[0]) if turned else dims
    return LayerShape(node.op_type, tuple(sorted(attributes.items())),
                      0 if groups > 1 and groups == inputs == outputs else groups, data, inputs, outputs,
                      len(node.input) > 2 and bool(node.input[2]), _activation(node, index), node.input[0] in entries)


def _spatial(node: Any, name: str) -> tuple[int, ...] | str | None:
    """Return a spatial attribute where it is not the default."""
    value = attribute(node, name, None)
    if isinstance(value, bytes):
        return None if value == b"NOTSET" else value.decode()
    if not value:
        return None
    default = {"pads": 0, "output_padding": 0, "strides": 1, "dilations": 1}.get(name, math.nan)
    return None if all(each == default for each in value) else tuple(int(each) for each in value)


def _activation(node: Any, index: GraphIndex) -> str:
    reader = index.activation_after(node, ACTIVATIONS)
    if reader is not None:
        return str(reader.op_type)
    readers = [each for each, _ in index.readers.get(node.output[0], ())]
    sigmoid = next((each for each in readers if each.op_type == "Sigmoid"), None)
    product = next((each for each in readers if each.op_type == "Mul"), None)
    if len(readers) == 2 and sigmoid is not None and product is not None and sigmoid.output[0] in product.input:
        return "Silu"
    return ""


def _text(value: tuple[int, ...] | str) -> str:
    return value if isinstance(value, str) else "x".join(map(str, value))
