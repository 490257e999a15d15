"""Dynamically quantized layers -> the float layers that they approximate.

    x -> DynamicQuantizeLinear -> MatMulInteger(., w) -> Cast -> Mul(s_x * s_w)      becomes      MatMul(x, DQ(w))
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import onnx

from trtkit.quant.audit.step import make_step
from trtkit.quant.index import GraphIndex, as_tensor

__all__ = ["DYNAMIC_OPS", "DynamicLayer", "dynamic_layers", "make_float"]

DYNAMIC_OPS = {"ConvInteger": "Conv", "MatMulInteger": "MatMul"}


@dataclass(frozen=True)
class DynamicLayer:
    """One layer whose input is quantized with a scale found at run time.

    Attributes:
        node: ConvInteger or MatMulInteger.
        source: The float input.
        weight_scale: Name of the weights' scale.
        cast, rescale: The nodes that make its INT32 result float; `rescale` makes the layer's output.
    """

    node: Any
    source: str
    weight_scale: str
    cast: Any
    rescale: Any


def dynamic_layers(index: GraphIndex, op_types: tuple[str, ...] = tuple(DYNAMIC_OPS)) -> list[DynamicLayer]:
    """Return the layers of the pattern that ONNX Runtime's quantize_dynamic writes."""
    found = []
    for node in index.nodes:
        layer = _match(index, node) if node.op_type in op_types else None
        if layer is not None:
            found.append(layer)
    return found


def _match(index: GraphIndex, node: Any) -> DynamicLayer | None:
    quantize = index.producer.get(node.input[0])
    if quantize is None or quantize.op_type != "DynamicQuantizeLinear" or index.constant(node.input[1]) is None:
        return None
    cast = index.only_reader(node.output[0])
    if cast is None or cast.op_type != "Cast":
        return None
    rescale = index.only_reader(cast.output[0])
    if rescale is None or rescale.op_type != "Mul":
        return None
    scales = index.producer.get(next(name for name in rescale.input if name != cast.output[0]))
    if scales is None or scales.op_type != "Mul" or quantize.output[1] not in scales.input:
        return None
    weight_scale = next(name for name in scales.input if name != quantize.output[1])
    return None if index.constant(weight_scale) is None else DynamicLayer(node, quantize.input[0], weight_scale, cast,
                                                                          rescale)


def make_float(model: onnx.ModelProto, layers: list[DynamicLayer]) -> None:
    """Replace these layers of a model by float ones of the same names, in place."""
    index = GraphIndex(model)
    replaced = {id(layer.rescale): layer for layer in layers}
    gone = {id(node) for layer in layers for node in (layer.node, layer.cast)}
    nodes = []
    for node in index.nodes:
        layer = replaced.get(id(node))
        if layer is not None:
            nodes.append(_float_node(index, model, layer))
        elif id(node) not in gone:
            nodes.append(node)
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(copies)


def _float_node(index: GraphIndex, model: onnx.ModelProto, layer: DynamicLayer) -> Any:
    node = layer.node
    integers = index.constant(node.input[1])
    assert integers is not None
    zero = node.input[3] if len(node.input) > 3 else ""
    axis = 0 if node.op_type == "ConvInteger" else integers.ndim - 1
    step = make_step(index, layer.weight_scale, zero, str(integers.dtype), axis)
    name = index.new_name(f"{node.input[1]}_float")
    model.graph.initializer.append(as_tensor(name, step.dequantize(integers)))
    float_node = onnx.helper.make_node(DYNAMIC_OPS[node.op_type], [layer.source, name], [layer.rescale.output[0]],
                                       name=node.name)
    float_node.attribute.extend(node.attribute)
    return float_node
