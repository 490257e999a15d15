"""FP32 graph + table -> which tensors become integers, and on which grids.

The insertion of Q/DQ writes a plan into a graph; quantization-aware training computes with the same plan in floating
point. Grids that were learned stand in the table and come before those of the estimator.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx

from trtkit.graph.shapes import without_initializers
from trtkit.precision import QuantSpec
from trtkit.quant.index import GraphIndex, hide_initializers, node_name
from trtkit.quant.placement import OpKind, Placement, Points, Weight, end_layers, place, row_bias
from trtkit.quant.scales.bias import output_shift
from trtkit.quant.scales.grids import Grid, activation_grid, learned_grid
from trtkit.quant.scales.weights import QuantizedWeight, quantize_weight, weight_on_grid
from trtkit.quant.static.gates import gate_grid, split_hardswish, useful_range
from trtkit.quant.static.narrow import coarse_layers
from trtkit.quant.static.shift import shifted_grids
from trtkit.ranges import CalibrationTable
from trtkit.tensors import Array

__all__ = ["QuantizationPlan", "plan_quantization"]

_BIAS_STEPS = 2.0**30
"""Largest magnitude of an INT32 bias, with room for the correction: weights get a coarser scale before it overflows."""

_ALIKE = (0.9, 2.0)
"""Scales whose ratio lies between these are shared: at most one bit of resolution goes, and a tenth of the range."""


@dataclass
class QuantizationPlan:
    """What becomes integers in one graph.

    Attributes:
        model: The graph without its initializers, HardSwish written as a product where its gate is looked up.
        index: Of `model`, with the initializers of the source.
        table: What the grids come from.
        placement: The rules.
        points: The places.
        kept: Names of the nodes that were to stay in floating point.
        grids: Tensor -> the grid on which it is read.
        owners: Tensor -> the tensor whose grid it shares.
        shifts: Add nodes that zero points perform, and the input number of their constant.
        written: Sum of such an Add -> the grid on which it is written.
        correct: Whether the mean error of weights is taken out of biases.
    """

    model: onnx.ModelProto
    index: GraphIndex
    table: CalibrationTable
    placement: Placement
    points: Points
    kept: set[str]
    correct: bool
    grids: dict[str, Grid] = field(default_factory=dict)
    owners: dict[str, str] = field(default_factory=dict)
    shifts: list[tuple[Any, int]] = field(default_factory=list)
    written: dict[str, Grid] = field(default_factory=dict)

    def absorbs(self, tensor: str) -> bool:
        """Whether the saturation of a tensor's grid does what the Relu or Clip that makes it does."""
        activation = self.points.absorbed.get(tensor)
        bounds = None if activation is None else self.index.clip_bounds(activation)
        low, high = self.grids[tensor].range
        slack = 1e-6 * max(abs(low), abs(high))
        return bounds is not None and bounds[0] <= low + slack and high - slack <= bounds[1]

    def useful_range(self, tensor: str) -> tuple[float, float]:
        """Return the bounds that a tensor's values, or what its readers make of them, never leave."""
        low, high = useful_range(self.index, tensor)
        activation = self.points.absorbed.get(tensor)
        bounds = None if activation is None else self.index.clip_bounds(activation)
        return (low, high) if bounds is None else (max(low, bounds[0]), min(high, bounds[1]))

    def bias(self, weight: Weight) -> Array | None:
        """Return the bias beside a weight, a value an output channel; None where there is none to speak of."""
        is_second = weight.position == 1 and weight.node.op_type != "MatMul"
        return row_bias(self.index, weight.node) if is_second else None

    def step(self, weight: Weight) -> np.float32 | None:
        """Return the scale of the layer's input where its bias is INT32, else None."""
        grid = self.grids.get(weight.node.input[0])
        return grid.scale if self.placement.int32_bias and grid is not None else None

    def quantized(self, weight: Weight) -> QuantizedWeight:
        """Return a weight's integers and scales."""
        name = weight.node.input[weight.position]
        value, largest = self.index.constant(name), self.placement.weight_max
        assert value is not None
        floor = self.smallest_scale(weight)
        learned = self.table.learned.weights.get((name, weight.axis))
        if learned is None:
            return quantize_weight(value, weight.axis, largest=largest, smallest_scale=floor)
        scale = np.maximum(learned.for_largest(largest), np.asarray(floor, np.float32))
        return weight_on_grid(value, scale.astype(np.float32), weight.axis, largest=largest)

    def smallest_scale(self, weight: Weight) -> Array | float:
        """Return the smallest weight scales with which an INT32 bias of steps s_x * s_w holds the bias; 0 without."""
        bias, step = self.bias(weight), self.step(weight)
        if bias is None or step is None:
            return 0.0
        floor: Array = np.maximum(np.abs(bias) / _BIAS_STEPS, np.finfo(np.float32).tiny) / step
        return floor if weight.axis is not None else float(floor.max())

    def corrects(self, weight: Weight) -> bool:
        """Whether the mean output error of a weight goes into its bias: not beside a bias that was trained with it."""
        return self.correct and (weight.node.input[weight.position], weight.axis) not in self.table.learned.weights

    def corrected_bias(self, weight: Weight, integers: QuantizedWeight) -> Array | None:
        """Return the bias without the mean output error of a quantized weight, as far as the means are known."""
        bias, means = self.bias(weight), self.table.channel_means(weight.node.input[0])
        if bias is None or means is None or not self.corrects(weight):
            return bias
        value = self.index.constant(weight.node.input[weight.position])
        assert value is not None
        return np.asarray(bias - output_shift(weight.node, integers.dequantized() - value, means))


def plan_quantization(model: onnx.ModelProto, table: CalibrationTable, placement: Placement,
                      spec: QuantSpec) -> QuantizationPlan:
    """Return what a runtime's rules quantize in a model.

    Args:
        model: FP32, opset 13 or later, types inferred, weights as initializers; it is not changed.
        table: Calibrated on this very model, or learned with it.
        placement: Where the target wants Q/DQ.
        spec: Estimator and nodes to keep in floating point.

    Raises:
        CalibrationError: A tensor to be quantized is not in the table.
        SpecError: A keep selector matches nothing.
    """
    bare = without_initializers(model)
    hide_initializers(bare, model)
    keep = _kept(GraphIndex(bare, model), spec)
    if OpKind.GATE in placement.ops.values():
        split_hardswish(bare)
    index = GraphIndex(bare, model)
    points = place(index, placement, keep | coarse_layers(index, table, placement, spec))
    if not spec.per_channel:
        points.weights[:] = [replace(weight, axis=None) for weight in points.weights]
    plan = QuantizationPlan(bare, index, table, placement, points, keep, spec.bias_correction)
    _choose_grids(plan, spec)
    _choose_shifts(plan)
    return plan


def _kept(index: GraphIndex, spec: QuantSpec) -> set[str]:
    keep = spec.keep.select((node_name(node), node.op_type) for node in index.nodes)
    return keep if spec.ends else keep | end_layers(index)


def _choose_grids(plan: QuantizationPlan, spec: QuantSpec) -> None:
    points, placement, own = plan.points, plan.placement, dict[str, Grid]()
    learned = plan.table.learned.grids
    for tensor in points.activations:
        if tensor in points.gates:
            own[tensor] = gate_grid(placement.activation_bounds)
        elif tensor not in points.same_scale:
            own[tensor] = _own_grid(plan, tensor, spec)
    for tensor in points.activations:
        plan.owners[tensor] = tensor if tensor in own else _root(points.same_scale, tensor)
    first = dict(plan.owners)
    for tensor, owner in first.items():
        neighbour = first[_root(points.joined, tensor)]
        if tensor not in learned and _are_alike(own[owner], own[neighbour]):
            plan.owners[tensor] = neighbour
        plan.grids[tensor] = own[plan.owners[tensor]]


def _own_grid(plan: QuantizationPlan, tensor: str, spec: QuantSpec) -> Grid:
    if tensor in plan.table.learned.grids:
        return learned_grid(plan.table, tensor, plan.placement)
    grid = activation_grid(plan.table, tensor, plan.placement, spec)
    return grid if plan.placement.symmetric else grid.within(*useful_range(plan.index, tensor))


def _are_alike(own: Grid, shared: Grid) -> bool:
    """Whether a tensor may take its neighbour's grid without losing a bit."""
    return bool(_ALIKE[0] <= shared.scale / own.scale <= _ALIKE[1])


def _root(parents: dict[str, str], tensor: str) -> str:
    while tensor in parents:
        tensor = parents[tensor]
    return tensor


def _choose_shifts(plan: QuantizationPlan) -> None:
    """Find the Adds of a number to a product that need no arithmetic: the sum is written with another zero point."""
    points, index = plan.points, plan.index
    shared = {*points.same_scale.values(), *points.joined.values()}
    rest = []
    for node, position in points.numbers:
        source, total = node.input[1 - position], node.output[0]
        producer, value = index.producer.get(source), index.constant(node.input[position])
        grids = None
        if (producer is not None and (producer.op_type, node.op_type) == ("Mul", "Add") and value is not None
                and total not in shared and index.only_reader(source) is node and total in points.activations):
            grids = shifted_grids(plan.grids[total], float(value.item()))
        if grids is None or (total in plan.table.learned.grids and grids[1] != plan.grids[total]):
            rest.append((node, position))
            continue
        plan.written[total], plan.grids[total] = grids
        plan.shifts.append((node, position))
        del points.activations[source]
    points.numbers[:] = rest
