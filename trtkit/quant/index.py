"""Who makes and who reads each tensor of an ONNX graph, and its constants as arrays."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from trtkit.errors import GraphError
from trtkit.tensors import Array

__all__ = ["GraphIndex", "as_tensor", "attribute", "hide_initializers", "node_name", "store_nodes", "subgraph_reads"]


_FIRST_IR_WITH_CONSTANTS = 4


class GraphIndex:
    """Look-up tables over the top-level graph of a model; the graph itself is not changed here.

    Args:
        model: Weights are initializers (Constant nodes are folded by the graph passes beforehand).
        weights: Where the initializers are, when the model is a copy without them.
    """

    def __init__(self, model: onnx.ModelProto, weights: onnx.ModelProto | None = None) -> None:
        graph = model.graph
        self.nodes: list[Any] = list(graph.node)
        self.initializers = {tensor.name: tensor for tensor in (weights or model).graph.initializer}
        self.inputs = [i.name for i in graph.input if i.name not in self.initializers]
        self.outputs = [o.name for o in graph.output]
        self.producer = {name: node for node in self.nodes for name in node.output if name}
        self.readers: dict[str, list[tuple[Any, int]]] = {}
        self.captured: set[str] = set()
        for node in self.nodes:
            for position, name in enumerate(node.input):
                if name:
                    self.readers.setdefault(name, []).append((node, position))
            self.captured.update(subgraph_reads(node))
        self._taken = {*self.initializers, *self.inputs, *self.outputs, *self.producer, *self.captured}
        self._types = {v.name: v.type.tensor_type.elem_type for v in (*graph.input, *graph.output, *graph.value_info)}

    def new_name(self, wanted: str) -> str:
        """Return `wanted`, with a number behind it when a tensor is already called so, and reserve it."""
        name, count = wanted, 0
        while name in self._taken:
            count += 1
            name = f"{wanted}_{count}"
        self._taken.add(name)
        return name

    def constant(self, name: str) -> Array | None:
        """Return the value of an initializer, or None when `name` is not one."""
        tensor = self.initializers.get(name)
        return None if tensor is None else numpy_helper.to_array(tensor)

    def is_float(self, name: str) -> bool:
        """Whether a tensor is float32 by the model's own (inferred) types."""
        if name in self.initializers:
            return bool(self.initializers[name].data_type == onnx.TensorProto.FLOAT)
        if name not in self._types:
            node = self.producer.get(name)
            raise GraphError(f"The type of tensor '{name}' (made by {node.op_type if node else '?'}) is not known. "
                             "Run: trtkit rewrite with the target's preset, which infers shapes and types")
        return bool(self._types[name] == onnx.TensorProto.FLOAT)

    def only_reader(self, name: str) -> Any | None:
        """Return the single node that reads `name`, or None when there are several, or it is an output of the graph."""
        readers = self.readers.get(name, ())
        if len(readers) != 1 or name in self.outputs or name in self.captured:
            return None
        return readers[0][0]

    def activation_after(self, node: Any, op_types: tuple[str, ...]) -> Any | None:
        """Return the Relu or Clip (as listed) that is the only reader of the node's first output, or None."""
        reader = self.only_reader(node.output[0])
        return reader if reader is not None and reader.op_type in op_types else None

    def clip_bounds(self, node: Any) -> tuple[float, float] | None:
        """Return the bounds of a Relu or of a Clip, infinite where it has none; None when one is computed."""
        if node.op_type == "Relu":
            return 0.0, float("inf")
        bounds = [-float("inf"), float("inf")]
        for position in (1, 2):
            if len(node.input) > position and node.input[position]:
                value = self.constant(node.input[position])
                if value is None:
                    return None
                bounds[position - 1] = float(value.item())
        return bounds[0], bounds[1]


def node_name(node: Any) -> str:
    """Return what to call a node: its name, or that of its first output when it has none."""
    return str(node.name or node.output[0])


def hide_initializers(model: onnx.ModelProto, weights: onnx.ModelProto | None = None) -> None:
    """Take the initializers out of the graph's inputs, in place: up to IR version 3 they had to be listed there.

    Args:
        model: The model to change.
        weights: Where the initializers are, when the model is a copy without them.
    """
    names = {tensor.name for tensor in (weights or model).graph.initializer}
    inputs = [info for info in model.graph.input if info.name not in names]
    if len(inputs) < len(model.graph.input):
        del model.graph.input[:]
        model.graph.input.extend(inputs)
        model.ir_version = max(model.ir_version, _FIRST_IR_WITH_CONSTANTS)


def attribute(node: Any, name: str, default: Any) -> Any:
    """Return an attribute's value, or `default` when the node does not carry it."""
    for item in node.attribute:
        if item.name == name:
            return onnx.helper.get_attribute_value(item)
    return default


def subgraph_reads(node: Any) -> Iterator[str]:
    """Yield every name that the subgraphs of a node (If, Loop, Scan) read, inner names included."""
    for item in node.attribute:
        for graph in (*item.graphs, *((item.g,) if item.HasField("g") else ())):
            for inner in graph.node:
                yield from inner.input
                yield from subgraph_reads(inner)
            yield from (output.name for output in graph.output)


def as_tensor(name: str, array: Array) -> Any:
    """Return an initializer of that name."""
    return numpy_helper.from_array(np.asarray(array, order="C"), name)


def store_nodes(graph: onnx.GraphProto, index: GraphIndex, nodes: Iterable[Any], initializers: Iterable[Any]) -> None:
    """Give a graph these nodes and those of the initializers that something reads, in place.

    Args:
        graph: What `index` was made of; its inferred types are dropped.
        index: Knows what subgraphs read, and the outputs.
        nodes: In topological order; they may be the graph's own.
        initializers: Candidates, each name once.
    """
    nodes = list(nodes)
    used = {name for node in nodes for name in node.input} | index.captured | set(index.outputs)
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    kept = [onnx.TensorProto.FromString(tensor.SerializeToString()) for tensor in initializers if tensor.name in used]
    del graph.node[:], graph.initializer[:], graph.value_info[:]
    graph.node.extend(copies)
    graph.initializer.extend(kept)
