"""FP32 graph -> graph of FP16 or BF16 tensors where that is safe: what strongly typed TensorRT takes as precision.

Inputs and outputs of the model keep their types; Casts stand where a 16-bit tensor meets a float32 node and back.
Q/DQ pairs take the type of what they stand between: Q that of its input, DQ that of its readers.
"""

from __future__ import annotations

from collections.abc import Container
from typing import Any

import onnx
from onnx import TensorProto

from trtkit.graph.opset import model_opset
from trtkit.precision import NodeSelector
from trtkit.quant.floats.half import FP16, HalfFormat
from trtkit.quant.floats.keeplist import FP32_INPUTS, fp32_nodes
from trtkit.quant.index import GraphIndex, hide_initializers, node_name, store_nodes
from trtkit.ranges import CalibrationTable

__all__ = ["BF16_OPSET", "to_half", "type_graph"]

BF16_OPSET = 22
"""ONNX opset in which convolutions and pooling take BF16."""

_NOTHING = NodeSelector()


def to_half(model: onnx.ModelProto, half: HalfFormat = FP16, *, table: CalibrationTable | None = None,
            keep: NodeSelector = _NOTHING) -> tuple[onnx.ModelProto, dict[str, str]]:
    """Return a 16-bit copy of a model and the nodes that stayed in FP32, each with the reason.

    Args:
        model: FP32, types inferred, weights as initializers. Its opset limits what can be 16-bit: BF16 needs 22 for
            convolutions and pooling.
        half: The format.
        table: When given, nodes on tensors that are too large or too small for `half` stay in FP32.
        keep: Further nodes that stay in FP32.

    Raises:
        SpecError: A keep selector matches nothing.
    """
    typed = onnx.ModelProto()
    typed.CopyFrom(model)
    hide_initializers(typed)
    index = GraphIndex(typed)
    reasons = fp32_nodes(index, half, model_opset(typed), table, keep)
    type_graph(typed, index, half, reasons)
    return typed, reasons


def type_graph(model: onnx.ModelProto, index: GraphIndex, half: HalfFormat, kept: Container[str]) -> None:
    """Give every node of a model that is not kept 16-bit tensors, in place.

    Args:
        model: As for `to_half`.
        index: Of this model; spent afterwards.
        half: The format.
        kept: Names of the nodes that stay in FP32.
    """
    conversion = _Conversion(index, half)
    for node in index.nodes:
        floats = any(name and index.is_float(name) for name in (*node.input, *node.output))
        if not floats:
            conversion.nodes.append(node)
        elif node_name(node) in kept or _follows_fp32(index, node, conversion.halves, kept):
            conversion.keep(node)
        else:
            conversion.convert(node)
    conversion.write(model.graph)


def _follows_fp32(index: GraphIndex, node: Any, halves: set[str], kept: Container[str]) -> bool:
    """Whether a Q reads a float32 tensor, or a DQ is read by kept nodes alone."""
    if node.op_type == "QuantizeLinear":
        return node.input[0] not in halves
    if node.op_type != "DequantizeLinear":
        return False
    readers = index.readers.get(node.output[0], ())
    return bool(readers) and all(node_name(reader) in kept for reader, _ in readers)


class _Conversion:
    """Builds the typed node list; every tensor keeps its name in the type it is made in."""

    def __init__(self, index: GraphIndex, half: HalfFormat) -> None:
        self.index, self.half = index, half
        self.nodes: list[Any] = []
        self.halves: set[str] = set()
        self.forms: dict[tuple[str, int], str] = {}
        self.initializers: dict[str, Any] = dict(index.initializers)

    def keep(self, node: Any) -> None:
        """Add a node that computes in FP32."""
        for position, name in enumerate(node.input):
            if name in self.halves:
                node.input[position] = self._form(name, TensorProto.FLOAT)
        self.nodes.append(node)

    def convert(self, node: Any) -> None:
        """Add a node that computes in 16 bits."""
        for position, name in enumerate(node.input):
            if name and self.index.is_float(name):
                wanted = position not in FP32_INPUTS.get(node.op_type, ())
                node.input[position] = self._form(name, self.half.code if wanted else TensorProto.FLOAT)
        if node.op_type == "Cast":
            for item in node.attribute:
                if item.name == "to" and item.i == TensorProto.FLOAT:
                    item.i = self.half.code
        self.nodes.append(node)
        for position, name in enumerate(node.output):
            if name and self.index.is_float(name):
                self._made_half(node, position, name)

    def _made_half(self, node: Any, position: int, name: str) -> None:
        """Note that an output is 16-bit now; an output of the graph, or what a subgraph reads, is cast back."""
        if name in self.index.outputs or name in self.index.captured:
            made = self.index.new_name(f"{name}_{self.half.name.lower()}")
            node.output[position] = made
            self.forms[name, self.half.code] = made
            self.nodes.append(_cast(made, name, TensorProto.FLOAT))
        else:
            self.halves.add(name)

    def _form(self, name: str, wanted: int) -> str:
        """Return the name under which a float tensor is available in the wanted type, adding a Cast where needed."""
        native = self.half.code if name in self.halves else TensorProto.FLOAT
        if native == wanted:
            return name
        if (name, wanted) not in self.forms:
            kind = "fp32" if wanted == TensorProto.FLOAT else self.half.name.lower()
            made = self.index.new_name(f"{name}_{kind}")
            constant = self.index.constant(name)
            if constant is not None:
                self.initializers[made] = self.half.tensor(made, constant)
            else:
                self.nodes.append(_cast(name, made, wanted))
            self.forms[name, wanted] = made
        return self.forms[name, wanted]

    def write(self, graph: onnx.GraphProto) -> None:
        """Store the typed graph."""
        store_nodes(graph, self.index, self.nodes, self.initializers.values())


def _cast(source: str, result: str, to: int) -> Any:
    return onnx.helper.make_node("Cast", [source], [result], name=f"{result}_cast", to=to)
