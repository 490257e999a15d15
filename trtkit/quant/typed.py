"""FP32 graph -> graph whose tensors are FP16 where that is safe: what strongly typed TensorRT takes as its precision.

Inputs and outputs of the model keep their types; Casts stand where a float16 tensor meets a float32 node and back.
A node stays in FP32 when its operator is numerically delicate, when it holds subgraphs, when a constant of it does not
fit into float16, or when calibration saw a value near float16's limit on one of its tensors.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto

from trtkit.precision import NodeSelector
from trtkit.quant.index import GraphIndex, as_tensor, hide_initializers, node_name
from trtkit.ranges import CalibrationTable
from trtkit.tensors import Array

__all__ = ["FP32_OPS", "to_fp16"]

FP32_OPS = frozenset({
    "Softmax", "LogSoftmax", "LayerNormalization", "InstanceNormalization", "GroupNormalization", "LpNormalization",
    "ReduceMean", "ReduceSum", "ReduceSumSquare", "ReduceL1", "ReduceL2", "ReduceLogSumExp", "ReduceProd", "CumSum",
    "Pow", "Exp", "Log", "Sqrt", "Reciprocal", "TopK", "NonMaxSuppression", "RoiAlign", "Range", "GridSample",
    "Constant", "ConstantOfShape", "EyeLike", "RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike",
    "Bernoulli", "Multinomial", "HannWindow", "HammingWindow", "BlackmanWindow", "MelWeightMatrix",
    "QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "QLinearMatMul",
})
"""Operators kept in FP32: reductions and exponentials lose digits or overflow, coordinates and counts need them all."""

_FP32_INPUTS = {"Resize": (1, 2), "Upsample": (1,)}
"""Inputs that the operator defines as float32."""

_LARGEST = 65504.0
_SMALLEST = 2.0**-24
_NOTHING = NodeSelector()
_HEADROOM = 0.5
"""Calibration data shows a part of what will come: values above half of the largest float16 count as overflow."""


def to_fp16(model: onnx.ModelProto, *, table: CalibrationTable | None = None,
            keep: NodeSelector = _NOTHING) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """Return an FP16-typed copy of a model and the names of the float nodes that stayed in FP32.

    Args:
        model: FP32, types inferred, weights as initializers.
        table: When given, nodes on tensors that came near the limit of float16 stay in FP32.
        keep: Further nodes that stay in FP32.

    Raises:
        SpecError: A keep selector matches nothing.
    """
    half = onnx.ModelProto()
    half.CopyFrom(model)
    hide_initializers(half)
    index = GraphIndex(half)
    kept = keep.select((node_name(node), node.op_type) for node in index.nodes)
    conversion = _Conversion(index)
    fp32_names = []
    for node in index.nodes:
        floats = [n for n in (*node.input, *node.output) if n and index.is_float(n)]
        if not floats:
            conversion.nodes.append(node)
        elif node_name(node) in kept or _delicate(index, node, floats, table):
            fp32_names.append(node_name(node))
            conversion.keep(node)
        else:
            conversion.convert(node)
    conversion.write(half.graph)
    return half, tuple(fp32_names)


def _delicate(index: GraphIndex, node: Any, floats: list[str], table: CalibrationTable | None) -> bool:
    if node.op_type in FP32_OPS or any(item.HasField("g") or item.graphs for item in node.attribute):
        return True
    for name in floats:
        value = index.constant(name)
        if value is not None and not _fits(value):
            return True
        histogram = table.tensors.get(name) if table is not None else None
        if histogram is not None and histogram.total and max(-histogram.min, histogram.max) > _HEADROOM * _LARGEST:
            return True
    return False


def _fits(value: Array) -> bool:
    magnitude = np.abs(value)
    largest = float(magnitude.max(initial=0.0))
    return largest <= _LARGEST and (largest == 0.0 or largest >= _SMALLEST)


class _Conversion:
    """Builds the typed node list; every tensor keeps its name in the type it is made in."""

    def __init__(self, index: GraphIndex) -> None:
        self.index = index
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
        """Add a node that computes in FP16."""
        for position, name in enumerate(node.input):
            if name and self.index.is_float(name):
                wanted = position not in _FP32_INPUTS.get(node.op_type, ())
                node.input[position] = self._form(name, TensorProto.FLOAT16 if wanted else TensorProto.FLOAT)
        if node.op_type == "Cast":
            for item in node.attribute:
                if item.name == "to" and item.i == TensorProto.FLOAT:
                    item.i = TensorProto.FLOAT16
        self.nodes.append(node)
        for position, name in enumerate(node.output):
            if name and self.index.is_float(name):
                self._made_half(node, position, name)

    def _made_half(self, node: Any, position: int, name: str) -> None:
        """Note that an output is FP16 now; an output of the graph, or what a subgraph reads, is cast back."""
        if name in self.index.outputs or name in self.index.captured:
            half = self.index.new_name(f"{name}_fp16")
            node.output[position] = half
            self.forms[name, TensorProto.FLOAT16] = half
            self.nodes.append(_cast(half, name, TensorProto.FLOAT))
        else:
            self.halves.add(name)

    def _form(self, name: str, wanted: int) -> str:
        """Return the name under which a float tensor is available in the wanted type, adding a Cast where needed."""
        native = TensorProto.FLOAT16 if name in self.halves else TensorProto.FLOAT
        if native == wanted:
            return name
        if (name, wanted) not in self.forms:
            made = self.index.new_name(f"{name}_fp16" if wanted == TensorProto.FLOAT16 else f"{name}_fp32")
            constant = self.index.constant(name)
            if constant is not None:
                self.initializers[made] = as_tensor(made, constant.astype(np.float16))
            else:
                self.nodes.append(_cast(name, made, wanted))
            self.forms[name, wanted] = made
        return self.forms[name, wanted]

    def write(self, graph: onnx.GraphProto) -> None:
        """Store the typed graph."""
        used = {name for node in self.nodes for name in node.input} | self.index.captured | set(self.index.outputs)
        kept = [onnx.TensorProto.FromString(tensor.SerializeToString())
                for name, tensor in self.initializers.items() if name in used]
        nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in self.nodes]
        del graph.node[:], graph.initializer[:], graph.value_info[:]
        graph.node.extend(nodes)
        graph.initializer.extend(kept)


def _cast(source: str, result: str, to: int) -> Any:
    return onnx.helper.make_node("Cast", [source], [result], name=f"{result}_cast", to=to)
