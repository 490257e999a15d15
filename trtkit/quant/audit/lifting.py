"""A quantized model, whoever made it -> the float model that it stands for, and the grids that it wrote down.

    DQ(Q(x)) -> x        DQ(w_int8) -> w        QLinearConv(...) -> Conv(...)        DynamicQuantizeLinear ... -> MatMul

What the saturation of a Q did stays: where a grid ends at 0 and the tensor may be negative, ONNX Runtime's quantizer
has dropped a Relu or Clip, and it is put back.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx

from trtkit.errors import GraphError
from trtkit.graph import infer_shapes, upgrade_opset
from trtkit.graph.opset import constants_to_initializers
from trtkit.quant.audit.dynamic import dynamic_layers, make_float
from trtkit.quant.audit.qoperators import QOPERATORS, QOperator, operands
from trtkit.quant.audit.step import Step, make_step, node_step
from trtkit.quant.index import GraphIndex, as_tensor, hide_initializers
from trtkit.tensors import Array

__all__ = ["Lifted", "lift", "prepare"]

_PER_AXIS_OPSET = 13
_NEVER_NEGATIVE = frozenset({"Relu", "Sigmoid", "Softmax", "HardSigmoid", "Abs", "Exp", "Sqrt", "ReduceL2"})
_KEEP_SIGN = frozenset({
    "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "Reshape", "Flatten", "Transpose", "Squeeze",
    "Unsqueeze", "Concat", "Add", "Mul", "Resize", "Slice", "Split", "Gather", "Identity", "Pad", "ReduceMean",
    "ReduceMax", "Expand", "Tile"})
_RELU6 = 6.0


@dataclass
class Lifted:
    """A float model with the grids of the quantized one.

    Attributes:
        model: Float, types and shapes inferred; nodes have the names of the quantized model's.
        reads: (node's first output, input number) -> the grid through which it reads that operand.
        writes: Tensor -> the grids that it is put on; several where several Q read it.
        integer_ops: Names of nodes that were integer operators (QLinear..., ...Integer) rather than Q/DQ.
        float_stored: Names of float weights that the model stores as float and quantizes when it is loaded.
    """

    model: onnx.ModelProto
    reads: dict[tuple[str, int], Step] = field(default_factory=dict)
    writes: dict[str, list[Step]] = field(default_factory=dict)
    integer_ops: set[str] = field(default_factory=set)
    float_stored: list[str] = field(default_factory=list)


def prepare(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy in which Constant nodes are initializers and every node of the main graph has a name of its own."""
    ready = onnx.ModelProto()
    ready.CopyFrom(model)
    constants_to_initializers(ready)
    hide_initializers(ready)
    taken: set[str] = set()
    for node in ready.graph.node:
        name, count = node.name or (node.output[0] if node.output else node.op_type), 0
        while name in taken:
            count += 1
            name = f"{node.name or node.output[0]}_{count}"
        taken.add(name)
        node.name = name
    return ready


def lift(model: onnx.ModelProto) -> Lifted:
    """Return the float form of a quantized model.

    Args:
        model: From `prepare`; nodes in topological order.

    Raises:
        GraphError: It holds an integer operator that is not known, or its shapes cannot be inferred.
    """
    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    model = copied
    layers = dynamic_layers(GraphIndex(model))
    names = {layer.node.name for layer in layers}
    make_float(model, layers)
    lifting = _Lifting(model)
    lifting.lifted.integer_ops |= names
    return lifting.run()


class _Lifting:
    """Walks the nodes in order and builds the float graph."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.index = GraphIndex(model)
        self.lifted = Lifted(model)
        self.initializers: dict[str, Any] = dict(self.index.initializers)
        self.integers: dict[str, Array] = {}
        self.float_name: dict[str, str] = {}
        self.steps: dict[str, Step] = {}
        self.saturated: dict[str, str] = {}
        self.highest: dict[str, float] = {}
        self.nodes: list[Any] = []
        self.made: set[str] = set()
        self.not_negative: set[str] = set()

    def run(self) -> Lifted:
        """Return the result."""
        for node in self.index.nodes:
            if node.op_type == "QuantizeLinear":
                self._quantize(node)
            elif node.op_type == "DequantizeLinear":
                self._dequantize(node)
            elif node.op_type in QOPERATORS:
                self._qoperator(node, QOPERATORS[node.op_type])
            else:
                self._copy(node)
        self._name_outputs()
        self._write()
        self._restore_relu6()
        return self.lifted

    def _resolve(self, name: str) -> str:
        return self.float_name.get(name, name)

    def _quantize(self, node: Any) -> None:
        value, step = self.index.constant(node.input[0]), node_step(self.index, node)
        output = node.output[0]
        self.steps[output] = step
        if value is not None and step.is_8bit:
            self.integers[output] = step.quantize(value)
            self.lifted.float_stored.append(node.input[0])
        else:
            self._saturate(self._resolve(node.input[0]), output, step)

    def _saturate(self, source: str, output: str, step: Step) -> None:
        """Let `output` stand for the float `source` on a grid; put back the activation that the grid performs."""
        self.float_name[output] = source
        if step.is_8bit and step.range[0] == 0 and source in self.made and source not in self.not_negative:
            if source not in self.saturated:
                self.saturated[source] = self._relu(source)
            self.float_name[output] = result = self.saturated[source]
            self.highest[result] = max(step.range[1], self.highest.get(result, 0.0))
        self.lifted.writes.setdefault(self.float_name[output], []).append(step)

    def _relu(self, source: str) -> str:
        result = self.index.new_name(f"{source}_relu")
        self._add(onnx.helper.make_node("Relu", [source], [result], name=result))
        return result

    def _dequantize(self, node: Any) -> None:
        source, output = node.input[0], node.output[0]
        known = self.steps.get(source)
        stored = self.index.initializers.get(source)
        dtype = known.dtype if known is not None else ""
        if stored is not None:
            dtype = onnx.helper.tensor_dtype_to_string(stored.data_type).split(".")[-1].lower()
        step = node_step(self.index, node, dtype)
        self.steps[output] = step
        integers = self.integers.get(source)
        if integers is None and stored is not None:
            integers = self.index.constant(source)
        if integers is not None and step.scale is not None:
            self.initializers[output] = as_tensor(output, step.dequantize(integers))
        elif output in self.index.captured:
            self._add(onnx.helper.make_node("Identity", [self._resolve(source)], [output], name=node.name))
        else:
            self.float_name[output] = self._resolve(source)

    def _qoperator(self, node: Any, form: QOperator) -> None:
        inputs, output = [], node.output[0]
        for position, (values, scale, zero) in enumerate(operands(node)):
            axis = None if position == 0 else form.weight_axis
            if form.op_type == "Gemm" and position == 1 and _attribute(node, "transB"):
                axis = 0
            step = make_step(self.index, node.input[scale], _input(node, zero), axis=axis)
            integers = self.index.constant(node.input[values])
            name = self._resolve(node.input[values])
            if integers is not None and step.scale is not None:
                name = self.index.new_name(f"{node.input[values]}_float")
                self.initializers[name] = as_tensor(name, step.dequantize(integers))
            inputs.append(name)
            self.lifted.reads[output, position] = step
        if form.bias and _input(node, form.bias):
            inputs.append(self._float_bias(node, form.bias, output))
        if _attribute(node, "channels_last"):
            raise GraphError(f"Node '{node.name}' ({node.op_type}) is in channels-last layout: this is a graph that "
                             "ONNX Runtime optimized and saved. Audit the model that it was made from")
        float_node = onnx.helper.make_node(form.op_type, inputs, [output], name=node.name)
        float_node.attribute.extend(item for item in node.attribute if item.name in form.attributes)
        self.lifted.integer_ops.add(node.name)
        grid_scale, grid_zero = (_input(node, position) for position in form.output)
        if not grid_scale:
            self._add(float_node)
            return
        raw = self.index.new_name(f"{output}_raw")
        float_node.output[0] = raw
        for position in range(len(inputs)):
            if (output, position) in self.lifted.reads:
                self.lifted.reads[raw, position] = self.lifted.reads.pop((output, position))
        self._add(float_node)
        step = make_step(self.index, grid_scale, grid_zero)
        self.steps[output] = step
        self._saturate(raw, output, step)

    def _float_bias(self, node: Any, position: int, output: str) -> str:
        data, weight = self.lifted.reads[output, 0], self.lifted.reads[output, 1]
        integers = self.index.constant(node.input[position])
        if integers is None or data.scale is None or weight.scale is None:
            raise GraphError(f"Node '{node.name}' ({node.op_type}) has a bias or scales that are computed. "
                             "Quantize the float model anew: trtkit quantize")
        name = self.index.new_name(f"{node.input[position]}_float")
        bias = integers.astype(np.float64) * data.scale * weight.scale.reshape(-1)
        self.initializers[name] = as_tensor(name, bias.astype(np.float32))
        return name

    def _copy(self, node: Any) -> None:
        copied = onnx.NodeProto.FromString(node.SerializeToString())
        for position, name in enumerate(node.input):
            copied.input[position] = self._resolve(name)
            if name in self.steps and node.output:
                self.lifted.reads[node.output[0], position] = self.steps[name]
        if node.op_type == "Pad" and node.input[0] in self.steps:
            self._pad_with_float(copied, self.steps[node.input[0]])
        self._add(copied)

    def _pad_with_float(self, pad: Any, step: Step) -> None:
        """Replace the integer that a Pad between Q and DQ fills in by the number that it stands for."""
        integer = self.index.constant(_input(pad, 2))
        if integer is not None and integer.dtype.kind in "iu":
            name = self.index.new_name(f"{pad.input[2]}_float")
            self.initializers[name] = as_tensor(name, step.dequantize(integer))
            pad.input[2] = name

    def _add(self, node: Any) -> None:
        self.nodes.append(node)
        self.made.update(node.output)
        variables = [name for name in node.input if name and name not in self.initializers]
        if node.op_type in _NEVER_NEGATIVE or self._clips_at_zero(node) or (
                node.op_type in _KEEP_SIGN and variables and all(self._not_negative(n) for n in node.input if n)):
            self.not_negative.update(node.output)

    def _clips_at_zero(self, node: Any) -> bool:
        if node.op_type != "Clip" or len(node.input) < 2 or node.input[1] not in self.initializers:
            return False
        return bool(onnx.numpy_helper.to_array(self.initializers[node.input[1]]) >= 0)

    def _not_negative(self, name: str) -> bool:
        if name not in self.initializers:
            return name in self.not_negative
        value = onnx.numpy_helper.to_array(self.initializers[name])
        return value.dtype.kind in "iu" or bool((value >= 0).all())

    def _name_outputs(self) -> None:
        """Give the float tensors behind graph outputs the names asked for."""
        for wanted in self.index.outputs:
            source = self._resolve(wanted)
            if source != wanted:
                self._add(onnx.helper.make_node("Identity", [source], [wanted], name=f"{wanted}_Identity"))

    def _write(self) -> None:
        needed = {*self.index.outputs, *self.index.captured}
        kept = []
        for node in reversed(self.nodes):
            if not node.output or any(name in needed for name in node.output):
                kept.append(node)
                needed.update(node.input)
        graph = self.model.graph
        tensors = [onnx.TensorProto.FromString(tensor.SerializeToString())
                   for name, tensor in self.initializers.items() if name in needed]
        outputs = {info.name: info for info in graph.output}
        for name in outputs:
            if name in self.steps and outputs[name].type.tensor_type.elem_type in (
                    onnx.TensorProto.INT8, onnx.TensorProto.UINT8):
                raise GraphError(f"Output '{name}' is quantized: the model gives integers. Cut it off before its "
                                 "QuantizeLinear, or quantize the float model anew: trtkit quantize")
        del graph.node[:], graph.initializer[:], graph.value_info[:]
        graph.node.extend(reversed(kept))
        graph.initializer.extend(tensors)
        self.lifted.model = infer_shapes(upgrade_opset(self.model, _PER_AXIS_OPSET))

    def _restore_relu6(self) -> None:
        """Make Clips of the Relus when they were ReLU6: then no grid ends above 6 and the widest one there.

        Q saturates for its own readers only; an average pool without a Q would see values above 6.
        """
        widest = max(self.highest.values(), default=0.0)
        if not 0.9 * _RELU6 < widest < 1.01 * _RELU6:
            return
        index = GraphIndex(self.lifted.model)
        bounds = [index.new_name("relu6_low"), index.new_name("relu6_high")]
        for name, value in zip(bounds, (0.0, _RELU6)):
            self.lifted.model.graph.initializer.append(as_tensor(name, np.float32(value)))
        for result in self.highest:
            node = index.producer.get(result)
            if node is not None:
                node.op_type = "Clip"
                node.input.extend(bounds)


def _input(node: Any, position: int) -> str:
    return str(node.input[position]) if len(node.input) > position else ""


def _attribute(node: Any, name: str) -> int:
    return next((int(item.i) for item in node.attribute if item.name == name), 0)
