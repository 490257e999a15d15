"""Histogram of an activation tensor -> its integer grid: scale and zero point."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from trtkit.errors import CalibrationError
from trtkit.precision import QuantSpec
from trtkit.quant.placement import Placement
from trtkit.ranges import CalibrationTable, estimate

__all__ = ["Grid", "activation_grid", "learned_grid"]


@dataclass(frozen=True)
class Grid:
    """Scale and zero point of one activation tensor."""

    scale: np.float32
    zero_point: int
    bounds: tuple[int, int]

    @property
    def range(self) -> tuple[float, float]:
        """Smallest and largest real value on the grid."""
        low, high = self.bounds
        return (low - self.zero_point) * float(self.scale), (high - self.zero_point) * float(self.scale)

    def within(self, low: float, high: float) -> Grid:
        """Return a finer grid where this one, if asymmetric, reaches beyond bounds on both sides of 0; else itself."""
        own_low, own_high = self.range
        if own_low >= low and own_high <= high:
            return self
        return _asymmetric(max(own_low, low), min(own_high, high), self.bounds)


def activation_grid(table: CalibrationTable, tensor: str, placement: Placement, spec: QuantSpec) -> Grid:
    """Return the grid of one tensor by the spec's estimator.

    Raises:
        CalibrationError: The table has no values for this tensor.
    """
    histogram = table.tensors.get(tensor)
    if histogram is None or not histogram.has_range:
        raise CalibrationError(f"The calibration table has no values for tensor '{tensor}', which is to be quantized. "
                               "Calibrate this very model: trtkit calibrate MODEL --data DIR -o TABLE")
    bounds = placement.activation_bounds
    low, high = estimate(histogram, spec.estimator, symmetric=placement.symmetric,
                         percentile=spec.percentile)
    if placement.symmetric:
        return Grid(np.float32(max(high, np.finfo(np.float32).tiny) / bounds[1]), 0, bounds)
    return _asymmetric(low, high, bounds)


def learned_grid(table: CalibrationTable, tensor: str, placement: Placement) -> Grid:
    """Return the grid that was learned for a tensor, to the bit; for a placement with fewer integers one of its range.

    Args:
        table: With a learned grid for this tensor.
        tensor: Its name.
        placement: Whose integers it becomes.
    """
    learned, bounds = table.learned.grids[tensor], placement.activation_bounds
    moved = learned.zero_point + bounds[0] - learned.bounds[0]
    if bounds[1] - bounds[0] == learned.bounds[1] - learned.bounds[0] and not (placement.symmetric and moved):
        return Grid(np.float32(learned.scale), moved, bounds)
    low, high = learned.range
    if placement.symmetric:
        return Grid(np.float32(max(-low, high) / bounds[1]), 0, bounds)
    seen = table.tensors.get(tensor)
    return _asymmetric(0.0 if seen is not None and seen.has_range and seen.min >= 0 else low, high, bounds)


def _asymmetric(low: float, high: float, bounds: tuple[int, int]) -> Grid:
    scale = max(high - low, np.finfo(np.float32).tiny) / (bounds[1] - bounds[0])
    zero_point = int(np.clip(round(bounds[0] - low / scale), *bounds))
    return Grid(np.float32(scale), zero_point, bounds)
