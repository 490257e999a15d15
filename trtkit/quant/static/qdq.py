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

from trtkit.graph.shapes import without_initializers
from trtkit.precision import QuantSpec
from trtkit.quant.index import GraphIndex, as_tensor, hide_initializers, node_name, store_nodes
from trtkit.quant.placement import OpKind, Placement, Points, Weight, end_layers, has_bias, place, row_bias
from trtkit.quant.scales.bias import output_shift
from trtkit.quant.scales.grids import Grid, activation_grid
from trtkit.quant.scales.weights import quantize_weight
from trtkit.quant.static.amx import choose_matrix_products
from trtkit.quant.static.gates import gate_grid, split_hardswish, to_lookup, useful_range
from trtkit.quant.static.narrow import coarse_layers
from trtkit.quant.static.padding import pad_narrow_inputs
from trtkit.quant.static.shield import endangered_bias, exact_steps
from trtkit.quant.static.shift import shifted_grids
from trtkit.ranges import CalibrationTable
from trtkit.tensors import Array

_BIAS_STEPS = 2.0**30
"""Largest magnitude of an INT32 bias, with room for the correction: weights get a coarser scale before it overflows."""

_ALIKE = (0.9, 2.0)
"""Scales whose ratio lies between these are shared: at most one bit of resolution goes, and a tenth of the range."""

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
    quantized = without_initializers(model)
    hide_initializers(quantized, model)
    keep = _kept(GraphIndex(quantized, model), spec)
    if OpKind.GATE in placement.ops.values():
        split_hardswish(quantized)
    index = GraphIndex(quantized, model)
    points = place(index, placement, keep | coarse_layers(index, table, placement, spec))
    insertion = _Insertion(index, placement, points, _grids(index, table, placement, points, spec), table,
                           correct=spec.bias_correction)
    for node, position in points.numbers:
        if not insertion.shift(node, position):
            insertion.number(node, position)
    for weight in points.weights:
        insertion.weight(weight)
    if placement.int32_bias:
        insertion.shield()
    absorbed = insertion.absorb()
    for tensor in points.activations:
        insertion.activation(tensor)
    insertion.write(quantized.graph)
    pad_narrow_inputs(quantized, placement.narrowest_input)
    if placement.matrix_products:
        choose_matrix_products(quantized)
    return quantized, QdqReport(len(points.activations), len(points.weights), absorbed, len(keep))


def _kept(index: GraphIndex, spec: QuantSpec) -> set[str]:
    keep = spec.keep.select((node_name(node), node.op_type) for node in index.nodes)
    return keep if spec.ends else keep | end_layers(index)


def _grids(index: GraphIndex, table: CalibrationTable, placement: Placement, points: Points,
           spec: QuantSpec) -> dict[str, Grid]:
    grids: dict[str, Grid] = {}
    for tensor in points.activations:
        if tensor in points.gates:
            grids[tensor] = gate_grid(placement.activation_bounds)
        elif tensor not in points.same_scale:
            grids[tensor] = activation_grid(table, tensor, placement, spec)
            if not placement.symmetric:
                grids[tensor] = grids[tensor].within(*useful_range(index, tensor))
    for tensor in points.activations:
        if tensor not in grids:
            grids[tensor] = grids[_root(points.same_scale, tensor)]
    return {tensor: _joined(grids, points, tensor) for tensor in grids}


def _joined(grids: dict[str, Grid], points: Points, tensor: str) -> Grid:
    """Return the grid of the neighbour with which a tensor shares one, or its own where that would cost a bit."""
    own, shared = grids[tensor], grids[_root(points.joined, tensor)]
    return shared if _ALIKE[0] <= shared.scale / own.scale <= _ALIKE[1] else own


def _root(parents: dict[str, str], tensor: str) -> str:
    while tensor in parents:
        tensor = parents[tensor]
    return tensor


class _Insertion:
    """Rewires the nodes of one graph; `write` puts the result into it."""

    def __init__(self, index: GraphIndex, placement: Placement, points: Points, grids: dict[str, Grid],
                 table: CalibrationTable, *, correct: bool) -> None:
        self.index, self.placement, self.points, self.grids = index, placement, points, grids
        self.table, self.correct = table, correct
        self.sources = {weight.node.output[0]: weight.node.input[0] for weight in points.weights}
        self.initializers: dict[str, Any] = dict(index.initializers)
        self.dropped: set[int] = set()
        self.written: dict[str, Grid] = {}
        self.before: dict[str, list[Any]] = {}
        self.shared: dict[tuple[str, int | None, bytes], str] = {}
        self.dtype = np.dtype(placement.activation)

    def absorb(self) -> int:
        """Drop the Relu and Clip nodes whose bounds the saturation of their output's Q keeps anyway."""
        before = len(self.dropped)
        for tensor, activation in self.points.absorbed.items():
            low, high = self.grids[tensor].range
            bounds = self.index.clip_bounds(activation)
            slack = 1e-6 * max(abs(low), abs(high))
            if bounds is not None and bounds[0] <= low + slack and high - slack <= bounds[1]:
                producer = self.index.producer[activation.input[0]]
                producer.output[0] = tensor
                self.index.producer[tensor] = producer
                self.dropped.add(id(activation))
        return len(self.dropped) - before

    def activation(self, tensor: str) -> None:
        """Put Q and DQ behind a tensor and let its readers read the result."""
        grid, readers = self.grids[tensor], self.points.activations[tensor]
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

    def shift(self, node: Any, position: int) -> bool:
        """Let the zero points of a product add a constant, and drop the Add; False where that cannot be."""
        source, total = node.input[1 - position], node.output[0]
        producer, value = self.index.producer.get(source), self.index.constant(node.input[position])
        shared = {*self.points.same_scale.values(), *self.points.joined.values()}
        if (producer is None or (producer.op_type, node.op_type) != ("Mul", "Add") or value is None or total in shared
                or self.index.only_reader(source) is not node or total not in self.points.activations):
            return False
        grids = shifted_grids(self.grids[total], float(value.item()))
        if grids is None:
            return False
        self.written[total], self.grids[total] = grids
        del self.points.activations[source]
        producer.output[0] = total
        self.index.producer[total] = producer
        self.dropped.add(id(node))
        return True

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
        node, name, axis = weight.node, weight.node.input[weight.position], weight.axis
        value = self.index.constant(name)
        assert value is not None
        grid = self.grids.get(node.input[0])
        bias = row_bias(self.index, node) if weight.position == 1 and node.op_type != "MatMul" else None
        step = grid.scale if self.placement.int32_bias and grid is not None else None
        integers = quantize_weight(value, axis, largest=self.placement.weight_max,
                                   smallest_scale=_smallest_scale(bias, step, per_channel=axis is not None))
        node.input[weight.position] = self._dequantized(name, integers.values, integers.scale, axis)
        if bias is None:
            return
        if self.correct:
            bias = bias - self._mean_error(weight, integers.dequantized() - value)
        if not has_bias(node) and not bias.any():
            return
        if step is not None:
            scale = (integers.scale * step).astype(np.float32)
            steps = np.rint(bias.astype(np.float64) / scale).astype(np.int32)
            _set_bias(node, self._dequantized(f"{node.output[0]}_bias", steps, scale, 0 if scale.ndim else None))
        elif self.correct:
            _set_bias(node, self._initializer(f"{node.output[0]}_bias", bias.astype(np.float32)))

    def shield(self) -> None:
        """Keep ONNX Runtime from rounding the weights of the layers that stay in float behind a DQ."""
        quantized = {id(weight.node) for weight in self.points.weights}
        for node in self.index.nodes:
            if id(node) not in quantized and node.input and node.input[0] in self.points.activations:
                bias = endangered_bias(self.index, node)
                if bias is not None:
                    _set_bias(node, self._dequantized(f"{node.output[0]}_bias", *exact_steps(bias), 0))

    def _mean_error(self, weight: Weight, error: Array) -> Array:
        """Return the mean output error of the quantized weights; 0 where the means of the input are not known."""
        means = self.table.channel_means(self.sources[weight.node.output[0]])
        return np.zeros(1, np.float32) if means is None else output_shift(weight.node, error, means)

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


def _smallest_scale(bias: Array | None, step: np.float32 | None, *, per_channel: bool) -> Array | float:
    """Return the smallest weight scales with which an INT32 bias of steps s_x * s_w holds the bias; 0 without one."""
    if bias is None or step is None:
        return 0.0
    floor: Array = np.maximum(np.abs(bias) / _BIAS_STEPS, np.finfo(np.float32).tiny) / step
    return floor if per_channel else float(floor.max())


def _set_bias(node: Any, name: str) -> None:
    if len(node.input) > 2:
        node.input[2] = name
    else:
        node.input.append(name)


def _node(op_type: str, inputs: list[str], output: str) -> Any:
    return onnx.helper.make_node(op_type, inputs, [output], name=f"{output}_{op_type}")

