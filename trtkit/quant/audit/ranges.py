"""The grids of a quantized model -> the calibration table that they imply: what a lowering for another target needs.

A UINT8 grid covers [-z s, (255 - z) s], a symmetric INT8 grid [-127 s, 127 s]. Behind a Relu the lower end is 0,
whatever the grid; a Clip, a Sigmoid and their like bound their outputs themselves. What only moves values has the range
of what it moves, and a saturated sum bounds its branches.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import isfinite

import numpy as np

from trtkit.quant.audit.lifting import Lifted
from trtkit.quant.index import GraphIndex
from trtkit.ranges import CalibrationTable, Histogram

__all__ = ["implied_ranges", "table_of"]

Range = tuple[float, float]

_MOVES = frozenset({"MaxPool", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Identity"})
_FROM_ZERO = frozenset({"Relu", "Sigmoid", "Softmax", "HardSigmoid"})
_BOUNDED = {"Sigmoid": (0.0, 1.0), "HardSigmoid": (0.0, 1.0), "Softmax": (0.0, 1.0), "Tanh": (-1.0, 1.0)}
_VALUES = 513


def implied_ranges(lifted: Lifted) -> dict[str, Range]:
    """Return the range of each tensor that a grid tells."""
    index = GraphIndex(lifted.model)
    found: dict[str, list[Range]] = {}
    for name, steps in lifted.writes.items():
        found.setdefault(name, []).extend(step.range for step in steps if step.is_8bit)
    for node in index.nodes:
        for position, name in enumerate(node.input):
            step = lifted.reads.get((node.output[0], position)) if node.output else None
            if step is not None and step.is_8bit and index.constant(name) is None:
                found.setdefault(name, []).append(step.range)
    ranges = {name: _union(each) for name, each in found.items() if each}
    _bound(index, ranges)
    _move(index, ranges)
    _share(index, ranges)
    _split_sums(index, ranges)
    for name, (low, high) in ranges.items():
        producer = index.producer.get(name)
        if low < 0 and producer is not None and (
                producer.op_type in _FROM_ZERO or (producer.op_type == "Clip" and _clips_at_zero(index, producer))):
            ranges[name] = (0.0, high)
    return ranges


def _union(ranges: Iterable[Range]) -> Range:
    lows, highs = zip(*ranges)
    return min(lows), max(highs)


def _clips_at_zero(index: GraphIndex, node: object) -> bool:
    bounds = index.clip_bounds(node)
    return bounds is not None and bounds[0] >= 0


def _bound(index: GraphIndex, ranges: dict[str, Range]) -> None:
    """Add the ranges that an operator keeps by itself."""
    for node in index.nodes:
        bounds = index.clip_bounds(node) if node.op_type == "Clip" else _BOUNDED.get(node.op_type)
        if bounds is not None and all(map(isfinite, bounds)):
            ranges.setdefault(node.output[0], bounds)


def _move(index: GraphIndex, ranges: dict[str, Range]) -> None:
    """Carry ranges over operators that move values, onwards and back."""
    for nodes in (index.nodes, reversed(index.nodes)):
        for node in nodes:
            if node.op_type in _MOVES and node.input[0] not in index.initializers:
                for known, wanted in ((node.input[0], node.output[0]), (node.output[0], node.input[0])):
                    if known in ranges:
                        ranges.setdefault(wanted, ranges[known])


def _share(index: GraphIndex, ranges: dict[str, Range]) -> None:
    """Give the inputs and the output of each Concat one range: then it copies bytes.

    An input of unknown range that the Concat alone reads takes that of the output, where it saturates anyway.
    """
    for node in index.nodes:
        if node.op_type == "Concat":
            if node.output[0] in ranges:
                for name in node.input:
                    if len(index.readers[name]) == 1 and name not in index.outputs:
                        ranges.setdefault(name, ranges[node.output[0]])
            names = [name for name in (*node.input, *node.output) if name in ranges]
            for name in names:
                ranges[name] = _union(ranges[each] for each in names)


def _split_sums(index: GraphIndex, ranges: dict[str, Range]) -> None:
    """Give the branch of an Add whose range is unknown all values that can matter.

    With the sum saturated to [l, h] behind the Add, and the other branch in [a, b], what lies beyond [l - b, h - a]
    changes nothing. TensorRT leaves this branch in float; ONNX Runtime's integer kernels need its range.
    """
    for node in reversed(index.nodes):
        if node.op_type != "Add":
            continue
        activation = index.activation_after(node, ("Relu", "Clip"))
        output = node.output[0] if activation is None else activation.output[0]
        for name, other in (tuple(node.input), tuple(node.input)[::-1]):
            if name not in ranges and other in ranges and output in ranges and index.only_reader(name) is not None:
                low, high = ranges[other]
                ranges[name] = (ranges[output][0] - high, ranges[output][1] - low)


def table_of(ranges: dict[str, Range]) -> CalibrationTable:
    """Return a table that holds these ranges, for the estimator minmax; in between, the middle is the most frequent."""
    spread = np.linspace(-1, 1, _VALUES) ** 3
    tensors = {name: Histogram.of(np.clip((low + high + (high - low) * spread) / 2, low, high))
               for name, (low, high) in ranges.items()}
    return CalibrationTable(tensors, samples=1, model="", data="grids of a quantized model", preprocess="")
