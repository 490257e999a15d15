"""Convolutions of few products whose input is too coarse in INT8: they stay in floating point.

A depthwise or narrow convolution sums few products, so the rounding noise of its input is not averaged, and INT8 saves
least there. Whether it matters is a question of the data: the inputs of the depthwise layers of EfficientNet-Lite0 have
a signal-to-noise ratio of 38 dB and more on the symmetric grid, those of PP-OCR's v4 recognizer 23 to 33 dB.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from trtkit.precision import QuantSpec
from trtkit.quant.index import GraphIndex, node_name
from trtkit.quant.placement import Placement
from trtkit.quant.scales.grids import Grid, activation_grid
from trtkit.ranges import CalibrationTable, Histogram

__all__ = ["coarse_layers", "grid_sqnr_db"]


def coarse_layers(index: GraphIndex, table: CalibrationTable, placement: Placement, spec: QuantSpec) -> set[str]:
    """Return the names of the convolutions to leave in floating point.

    Args:
        index: The FP32 graph.
        table: Its calibration; convolutions whose input it has only a range of, or nothing, are not judged.
        placement: `few_products` and `least_sqnr_db` are the bounds.
        spec: How the grids are chosen.
    """
    return {node_name(node) for node in index.nodes if node.op_type == "Conv"
            and 0 < _products(index, node) <= placement.few_products
            and _is_coarse(table, node.input[0], placement, spec)}


def _is_coarse(table: CalibrationTable, tensor: str, placement: Placement, spec: QuantSpec) -> bool:
    histogram = table.tensors.get(tensor)
    if histogram is None or not histogram.total or not histogram.amax:
        return False
    return grid_sqnr_db(histogram, activation_grid(table, tensor, placement, spec)) < placement.least_sqnr_db


def grid_sqnr_db(histogram: Histogram, grid: Grid) -> float:
    """Return the signal-to-quantization-noise ratio of a tensor on a grid in dB, from the middles of its bins."""
    low, high, counts = histogram.intervals()
    values = (low + high) / 2
    steps = np.clip(np.rint(values / float(grid.scale)) + grid.zero_point, *grid.bounds)
    noise = counts @ ((steps - grid.zero_point) * float(grid.scale) - values) ** 2
    return float(10 * np.log10(counts @ values**2 / noise)) if noise else np.inf


def _products(index: GraphIndex, node: Any) -> int:
    """Return how many products an output value of a Conv sums; 0 where the weights are computed."""
    weight = index.initializers.get(node.input[1])
    return 0 if weight is None else int(np.prod(weight.dims[1:]))
