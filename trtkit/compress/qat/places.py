"""Plan of a target's quantization -> the same graph in torch, with fake quantizers where the target will have Q/DQ."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx
from torch import nn

from trtkit.compress.qat.fake_quantize import BiasQuantizer, FollowingQuantizer, Quantizer
from trtkit.compress.qat.spec import Scales
from trtkit.compress.qat.torch_graph import Edge, TorchGraph
from trtkit.quant.index import GraphIndex, as_tensor
from trtkit.quant.placement import Weight, has_bias
from trtkit.quant.static.plan import QuantizationPlan
from trtkit.ranges.learned import Learned, LearnedGrid, LearnedScales, WeightKey

__all__ = ["FakeQuantized", "fake_quantize", "with_corrected_biases"]


@dataclass
class FakeQuantized:
    """A graph in torch that computes on a plan's grids.

    Attributes:
        plan: Where quantization begins.
        module: The graph.
        activations: Quantizer of each tensor, by the tensor that owns its grid.
        weights: Quantizer of each weight.
    """

    plan: QuantizationPlan
    module: TorchGraph
    activations: dict[str, Quantizer] = field(default_factory=dict)
    weights: dict[WeightKey, Quantizer | FollowingQuantizer] = field(default_factory=dict)

    def learned(self) -> Learned:
        """Return the grids and scales as they are now, for a calibration table."""
        grids = {}
        for tensor, owner in self.plan.owners.items():
            if owner in self.activations and tensor not in self.plan.points.gates:
                grid = self.plan.grids[owner]
                grids[tensor] = LearnedGrid(self.activations[owner].scale.item(), grid.zero_point, grid.bounds)
        weights = {}
        for (name, axis), quantizer in self.weights.items():
            scale = quantizer.scale if isinstance(quantizer, Quantizer) else quantizer.scale_of(
                self.module.get_parameter(self.module.torch_names[name]))
            weights[name, axis] = LearnedScales(scale.detach().cpu().numpy().astype(np.float32),
                                                self.plan.placement.weight_max)
        return Learned(grids, weights)


def fake_quantize(plan: QuantizationPlan, model: onnx.ModelProto, *, scales: Scales, half: bool,
                  follow: bool) -> FakeQuantized:
    """Return the graph of a plan in torch, on its integer grids.

    A tensor whose values were only moved since they were rounded is not rounded again: nothing would change.

    Args:
        plan: Of the model.
        model: Has the weights.
        scales: Whether scales are trained.
        half: Scales are float16 numbers.
        follow: Weight scales follow the largest weight, as the weak path has it.
    """
    made = _Quantizers(plan, learned=scales is Scales.LEARNED, half=half, follow=follow)
    for tensor, readers in plan.points.activations.items():
        if tensor not in plan.points.same_scale:
            made.activation(tensor, readers)
    for weight in plan.points.weights:
        made.weight(weight)
    graph = onnx.ModelProto()
    graph.CopyFrom(plan.model)
    graph.graph.initializer.extend(model.graph.initializer)
    return FakeQuantized(plan, TorchGraph(graph, made.places), made.activations, made.weights)


class _Quantizers:
    """Makes each quantizer of a plan once, and notes where it stands."""

    def __init__(self, plan: QuantizationPlan, *, learned: bool, half: bool, follow: bool) -> None:
        self.plan, self.learned, self.half, self.follow = plan, learned, half, follow
        self.places: dict[Edge, nn.Module] = {}
        self.activations: dict[str, Quantizer] = {}
        self.weights: dict[WeightKey, Quantizer | FollowingQuantizer] = {}

    def activation(self, tensor: str, readers: list[tuple[onnx.NodeProto, int]] | None) -> None:
        """Put a quantizer behind a tensor, or before those that read its quantized form."""
        index, quantizer = self.plan.index, self._of(tensor)
        beside = index.captured | set(index.outputs)
        if readers is None or (len(readers) == len(index.readers[tensor]) and tensor not in beside):
            self.places[tensor] = quantizer
            return
        for node, position in readers:
            self.places[node.output[0], position] = quantizer

    def _of(self, tensor: str) -> Quantizer:
        owner = self.plan.owners[tensor]
        if owner not in self.activations:
            grid = self.plan.grids[owner]
            fixed = owner in self.plan.points.gates or owner in self.plan.written
            self.activations[owner] = Quantizer(
                np.asarray(grid.scale, np.float32), grid.bounds[0] - grid.zero_point, grid.bounds[1] - grid.zero_point,
                learned=self.learned and not fixed, largest=_largest_scale(self.plan, owner), half=self.half)
        return self.activations[owner]

    def weight(self, weight: Weight) -> None:
        """Put a quantizer between a constant and a node that reads it, and behind an INT32 bias."""
        node, plan, largest = weight.node, self.plan, self.plan.placement.weight_max
        key = (node.input[weight.position], weight.axis)
        if key not in self.weights:
            self.weights[key] = FollowingQuantizer(largest, weight.axis) if self.follow else Quantizer(
                plan.quantized(weight).scale, -largest, largest, axis=weight.axis, learned=self.learned,
                half=self.half)
        quantizer = self.places[node.output[0], weight.position] = self.weights[key]
        if plan.step(weight) is not None and plan.bias(weight) is not None and has_bias(node):
            assert isinstance(quantizer, Quantizer)
            self.places[node.output[0], 2] = BiasQuantizer(quantizer, self._of(node.input[0]))


def _largest_scale(plan: QuantizationPlan, tensor: str) -> float | None:
    """Return the scale up to which a grid stays where values are told apart, if it is there now; None: no bound.

    Beyond it a Clip that saturation performs would have to be computed, and the look-up of a gate would not hold.
    """
    grid, (low, high) = plan.grids[tensor], plan.useful_range(tensor)
    slack = 1e-6 * max(map(abs, grid.range))
    if plan.placement.symmetric or grid.range[0] < low - slack or grid.range[1] > high + slack:
        return None
    bounds = [bound / steps for bound, steps in zip((low, high), (each - grid.zero_point for each in grid.bounds))
              if np.isfinite(bound) and steps]
    return max(float(grid.scale), min(bounds)) if bounds else None


def with_corrected_biases(model: onnx.ModelProto, plan: QuantizationPlan) -> onnx.ModelProto:
    """Return a copy of a model whose biases have what the plan's lowering would take out of them, to begin there.

    Args:
        model: What the plan was made of.
        plan: Knows the mean errors of the quantized weights.
    """
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    index = GraphIndex(changed)
    for weight in plan.points.weights:
        bias = plan.corrected_bias(weight, plan.quantized(weight)) if plan.corrects(weight) else None
        if bias is None or not bias.any():
            continue
        node = index.producer[weight.node.output[0]]
        name = index.new_name(f"{node.output[0]}_bias")
        changed.graph.initializer.append(as_tensor(name, bias.astype(np.float32)))
        if len(node.input) > 2:
            node.input[2] = name
        else:
            node.input.append(name)
    read = {name for node in index.nodes for name in node.input} | index.captured | set(index.outputs)
    kept = [tensor for tensor in changed.graph.initializer if tensor.name in read]
    if len(kept) < len(changed.graph.initializer):
        del changed.graph.initializer[:]
        changed.graph.initializer.extend(kept)
    return changed
