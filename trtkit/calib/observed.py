"""FP32 graph -> the tensors whose values are worth counting.

Counted: every float tensor that depends on the data. Not counted: what no lowering quantizes, because it fuses into the
activation that alone reads it (Conv -> Relu); shape arithmetic and constants. Copied: the output of an operator that
only moves values has the histogram of its input. Of what a layer with constant weights reads, channel means as well; of
what a lowering may scale channel by channel (between two convolutions, behind a LayerNormalization), channel ranges.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx
from onnx import numpy_helper

from trtkit.graph import infer_shapes

__all__ = ["Observed", "find_observed"]

_FUSING = frozenset({"Conv", "ConvTranspose", "Gemm", "BatchNormalization", "Add"})
_ACTIVATIONS = frozenset({"Relu", "Clip"})
_MOVING = frozenset({"Dropout", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})
_SHAPES = frozenset({"Shape", "Size"})
_FLOATS = frozenset({onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.UNDEFINED})


@dataclass(frozen=True)
class Observed:
    """What to count.

    Attributes:
        inputs: Graph inputs to count, from the feeds themselves.
        tensors: Tensors to count, in the order in which they are computed.
        copies: Tensor -> the counted tensor that holds the same values.
        pooled: Inputs of convolutions: channel means over all positions.
        rows: Inputs of Gemm: channel means are the values themselves, shape (N, C).
        peaks: Conv -> Relu (or Clip from 0 up) -> these -> Conv: the largest value of each channel; the smallest is 0.
        normalized: Outputs of LayerNormalization: ranges of the last axis.
    """

    inputs: tuple[str, ...]
    tensors: tuple[str, ...]
    copies: dict[str, str]
    pooled: tuple[str, ...] = ()
    rows: tuple[str, ...] = ()
    peaks: tuple[str, ...] = ()
    normalized: tuple[str, ...] = ()


def find_observed(model: onnx.ModelProto) -> Observed:
    """Return which tensors of the top-level graph to count."""
    graph = infer_shapes(model).graph
    types = {info.name: info.type.tensor_type.elem_type for info in (*graph.input, *graph.output, *graph.value_info)}
    constants = {tensor.name for tensor in graph.initializer}
    outputs = {info.name for info in graph.output}
    readers = _readers(graph)
    live = {info.name for info in graph.input if info.name not in constants}
    inputs = tuple(name for name in (i.name for i in graph.input) if name in live and types[name] in _FLOATS)
    tensors: list[str] = []
    copies: dict[str, str] = {}
    for node in graph.node:
        if node.op_type in _SHAPES or not any(name in live for name in (*node.input, *_captured(node))):
            continue
        live.update(name for name in node.output if name)
        for position, name in enumerate(node.output):
            if not name or types.get(name, onnx.TensorProto.UNDEFINED) not in _FLOATS:
                continue
            only = readers.get(name, [])
            fused = (node.op_type in _FUSING and len(only) == 1 and only[0] in _ACTIVATIONS and name not in outputs)
            source = copies.get(node.input[0], node.input[0]) if node.input else ""
            if node.op_type in _MOVING and position == 0 and (source in tensors or source in inputs):
                copies[name] = source
            elif not fused and not (node.op_type in _MOVING and position):
                tensors.append(name)
    pooled = _weighted_inputs(graph, ("Conv", "ConvTranspose"), live, constants)
    between = _between_convolutions(graph)
    return Observed(inputs, tuple(tensors), copies, pooled, _weighted_inputs(graph, ("Gemm",), live, constants),
                    tuple(name for name in pooled if name in between and readers[name] == ["Conv"]),
                    tuple(node.output[0] for node in graph.node if node.op_type == "LayerNormalization"
                          and node.output[0] in tensors))


def _weighted_inputs(graph: onnx.GraphProto, operators: tuple[str, ...], live: set[str],
                     constants: set[str]) -> tuple[str, ...]:
    """Return what nodes of these types with a constant second operand read, each name once."""
    return tuple(dict.fromkeys(
        node.input[0] for node in graph.node
        if node.op_type in operators and node.input[0] in live and node.input[1] in constants
        and not any(item.name == "transA" and item.i for item in node.attribute)))


def _between_convolutions(graph: onnx.GraphProto) -> set[str]:
    """Return the outputs of Conv -> Relu, or Clip with a constant lower bound of 0 or more."""
    convolved = {node.output[0] for node in graph.node if node.op_type == "Conv"}
    constants = {tensor.name: tensor for tensor in graph.initializer}
    found = set()
    for node in graph.node:
        if node.op_type in _ACTIVATIONS and node.input[0] in convolved:
            low = constants.get(node.input[1]) if len(node.input) > 1 else None
            if node.op_type == "Relu" or (low is not None and float(numpy_helper.to_array(low).item()) >= 0):
                found.add(node.output[0])
    return found


def _readers(graph: onnx.GraphProto) -> dict[str, list[str]]:
    """Return the operators that read each tensor; one that a subgraph reads has an extra reader ''."""
    readers: dict[str, list[str]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node.op_type)
        for name in _captured(node):
            readers.setdefault(name, []).append("")
    return readers


def _captured(node: onnx.NodeProto) -> list[str]:
    """Return the names that the node's subgraphs read, their own among them."""
    names: list[str] = []
    for attribute in node.attribute:
        for graph in (*attribute.graphs, *((attribute.g,) if attribute.HasField("g") else ())):
            for inner in graph.node:
                names += [*inner.input, *_captured(inner)]
            names += [info.name for info in graph.output]
    return names
