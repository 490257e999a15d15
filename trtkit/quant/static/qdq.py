"""FP32 graph + table -> graph with QuantizeLinear / DequantizeLinear pairs where the placement wants them.

    x -> Conv(w, b) -> Relu -> y      becomes, for ONNX Runtime,
    DQ(Q(x)) -> Conv(DQ(w_int8), DQ(b_int32)) -> DQ(Q(y))      and for TensorRT
    DQ(Q(x)) -> Conv(DQ(w_int8), b) -> Relu -> y

with q = clip(round(x / s) + z) and x' = (q - z) * s (ONNX QuantizeLinear, round half to even).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from trtkit.precision import QuantSpec
from trtkit.quant.index import as_tensor, store_nodes
from trtkit.quant.placement import Placement, Weight, has_bias
from trtkit.quant.scales.grids import Grid
from trtkit.quant.static.amx import choose_matrix_products
from trtkit.quant.static.gates import to_lookup
from trtkit.quant.static.padding import pad_narrow_inputs
from trtkit.quant.static.plan import QuantizationPlan, plan_quantization
from trtkit.quant.static.shield import endangered_bias, exact_steps
from trtkit.ranges import CalibrationTable
from trtkit.tensors import Array

__all__ = ["QdqReport", "insert_qdq"]


@dataclass(frozen=True)
class QdqReport:
    """What was quantized.

    Attributes:
        activations: Number of activation tensors with Q/DQ.
        weights: Number of quantized constant operands.
        absorbed: Relu and Clip nodes dropped because the saturation of Q does the same.
        kept: Weighted nodes left in floating point on request.
    """

    activations: int
    weights: int
    absorbed: int
    kept: int


def insert_qdq(model: onnx.ModelProto, table: CalibrationTable, placement: Placement,
               spec: QuantSpec) -> tuple[onnx.ModelProto, QdqReport]:
    """Return a quantized copy of a model.

    Args:
        model: FP32, opset 13 or later, types inferred, weights as initializers.
        table: Calibrated on this very model.
        placement: Where the target wants Q/DQ.
        spec: Estimator and nodes to keep in floating point.

    Raises:
        CalibrationError: A tensor to be quantized is not in the table.
        SpecError: A keep selector matches nothing.
    """
    plan = plan_quantization(model, table, placement, spec)
    insertion = _Insertion(plan)
    for node, position in plan.shifts:
        insertion.shift(node, position)
    for node, position in plan.points.numbers:
        insertion.number(node, position)
    for weight in plan.points.weights:
        insertion.weight(weight)
    if placement.int32_bias:
        insertion.shield()
    absorbed = insertion.absorb()
    for tensor in plan.points.activations:
        insertion.activation(tensor)
    quantized = plan.model
    insertion.write(quantized.graph)
    pad_narrow_inputs(quantized, placement.narrowest_input)
    if placement.matrix_products:
        choose_matrix_products(quantized)
    return quantized, QdqReport(len(plan.points.activations), len(plan.points.weights), absorbed, len(plan.kept))


class _Insertion:
    """Rewires the nodes of one graph; `write` puts the result into it."""

    def __init__(self, plan: QuantizationPlan) -> None:
        self.plan, self.index, self.placement, self.points = plan, plan.index, plan.placement, plan.points
        self.initializers: dict[str, Any] = dict(plan.index.initializers)
        self.dropped: set[int] = set()
        self.written: dict[str, Grid] = dict(plan.written)
        self.before: dict[str, list[Any]] = {}
        self.shared: dict[tuple[str, int | None, bytes], str] = {}
        self.dtype = np.dtype(plan.placement.activation)

    def absorb(self) -> int:
        """Drop the Relu and Clip nodes whose bounds the saturation of their output's Q keeps anyway."""
        before = len(self.dropped)
        for tensor, activation in self.points.absorbed.items():
            if self.plan.absorbs(tensor):
                self._make_directly(tensor, activation, activation.input[0])
        return len(self.dropped) - before

    def _make_directly(self, tensor: str, dropped: Any, source: str) -> None:
        """Drop a node: what makes its input makes its output."""
        producer = self.index.producer[source]
        producer.output[0] = tensor
        self.index.producer[tensor] = producer
        self.dropped.add(id(dropped))

    def activation(self, tensor: str) -> None:
        """Put Q and DQ behind a tensor and let its readers read the result."""
        grid, readers = self.plan.grids[tensor], self.points.activations[tensor]
        source, result = tensor, ""
        if readers is None:
            readers = [(n, p) for n, p in self.index.readers.get(tensor, ()) if id(n) not in self.dropped]
            if (tensor in self.index.outputs or tensor in self.index.captured) and tensor in self.index.producer:
                source, result = self.index.new_name(f"{tensor}_raw"), tensor
                producer = self.index.producer[tensor]
                producer.output[list(producer.output).index(tensor)] = source
        result = result or self.index.new_name(f"{tensor}_dequantized")
        for node, position in readers:
            node.input[position] = result
        read = self._grid(tensor, grid)
        if tensor in self.points.gates:
            self.written[tensor] = to_lookup(self.points.gates[tensor], grid.bounds)
        written = self._grid(f"{tensor}_written", self.written[tensor]) if tensor in self.written else read
        integers = self.index.new_name(f"{tensor}_quantized")
        self.before[source] = [_node("QuantizeLinear", [source, *written], integers),
                               _node("DequantizeLinear", [integers, *read], result)]

    def shift(self, node: Any, position: int) -> None:
        """Let the zero points of a product add a constant, and drop the Add."""
        self._make_directly(node.output[0], node, node.input[1 - position])

    def number(self, node: Any, position: int) -> None:
        """Replace a constant of one element by DQ over the integer 1 or -1, or 0 below the zero point: exact."""
        name = node.input[position]
        value = self.index.constant(name)
        assert value is not None
        below = bool(value.item() < 0)
        inputs = [self._initializer(f"{name}_quantized", np.full(value.shape, not below, self.dtype)),
                  *self._grid(name, Grid(np.float32(abs(value.item())), int(below), self.placement.activation_bounds))]
        dequantize = _node("DequantizeLinear", inputs, self.index.new_name(f"{name}_dequantized"))
        self.before.setdefault("", []).append(dequantize)
        node.input[position] = dequantize.output[0]

    def weight(self, weight: Weight) -> None:
        """Replace a constant operand by DQ over integers, and the bias too where the runtime wants it in INT32."""
        node, name = weight.node, weight.node.input[weight.position]
        integers, step, corrects = self.plan.quantized(weight), self.plan.step(weight), self.plan.corrects(weight)
        bias = self.plan.corrected_bias(weight, integers)
        node.input[weight.position] = self._dequantized(name, integers.values, integers.scale, weight.axis)
        if bias is None or (not has_bias(node) and not bias.any()):
            return
        if step is not None:
            scale = (integers.scale * step).astype(np.float32)
            steps = np.rint(bias.astype(np.float64) / scale).astype(np.int32)
            _set_bias(node, self._dequantized(f"{node.output[0]}_bias", steps, scale, 0 if scale.ndim else None))
        elif corrects:
            _set_bias(node, self._initializer(f"{node.output[0]}_bias", bias.astype(np.float32)))

    def shield(self) -> None:
        """Keep ONNX Runtime from rounding the weights of the layers that stay in float behind a DQ."""
        quantized = {id(weight.node) for weight in self.points.weights}
        for node in self.index.nodes:
            if id(node) not in quantized and node.input and node.input[0] in self.points.activations:
                bias = endangered_bias(self.index, node)
                if bias is not None:
                    _set_bias(node, self._dequantized(f"{node.output[0]}_bias", *exact_steps(bias), 0))

    def _dequantized(self, name: str, values: Array, scale: Array, axis: int | None) -> str:
        """Return the name of DQ(values); what several nodes share on the same grid is stored once."""
        key = (name, axis, scale.tobytes())
        if key not in self.shared:
            inputs = [self._initializer(f"{name}_quantized", values), self._initializer(f"{name}_scale", scale),
                      self._initializer(f"{name}_zero_point", np.zeros(scale.shape, values.dtype))]
            dequantize = _node("DequantizeLinear", inputs, self.index.new_name(f"{name}_dequantized"))
            if axis is not None:
                dequantize.attribute.append(onnx.helper.make_attribute("axis", axis))
            self.before.setdefault("", []).append(dequantize)
            self.shared[key] = dequantize.output[0]
        return self.shared[key]

    def _grid(self, tensor: str, grid: Grid) -> tuple[str, str]:
        """Return the names of a grid's scale and zero point."""
        return (self._initializer(f"{tensor}_scale", np.asarray(grid.scale, np.float32)),
                self._initializer(f"{tensor}_zero_point", np.asarray(grid.zero_point, self.dtype)))

    def _initializer(self, wanted: str, value: Array) -> str:
        name = self.index.new_name(wanted)
        self.initializers[name] = as_tensor(name, value)
        return name

    def write(self, graph: onnx.GraphProto) -> None:
        """Store nodes in topological order and drop the initializers that nothing reads any more."""
        nodes = list(self.before.get("", ()))
        for name in self.index.inputs:
            nodes.extend(self.before.get(name, ()))
        for node in self.index.nodes:
            if id(node) not in self.dropped:
                nodes.append(node)
                for output in node.output:
                    nodes.extend(self.before.get(output, ()))
        store_nodes(graph, self.index, nodes, self.initializers.values())


def _set_bias(node: Any, name: str) -> None:
    if len(node.input) > 2:
        node.input[2] = name
    else:
        node.input.append(name)


def _node(op_type: str, inputs: list[str], output: str) -> Any:
    return onnx.helper.make_node(op_type, inputs, [output], name=f"{output}_{op_type}")

