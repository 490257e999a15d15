"""Histogram -> (low, high), the real range that an integer grid should cover.

One small function an estimator, registered by its `Estimator`. Symmetric grids have the codes -L/2 .. L/2-1 and the
scale high / (L/2-1), as TensorRT uses them; asymmetric ones the codes 0 .. L-1, a zero point, and a range around 0.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from trtkit.errors import CalibrationError, SpecError
from trtkit.precision import Estimator
from trtkit.ranges import auto, entropy, mse
from trtkit.ranges.histogram import Histogram

__all__ = ["ESTIMATORS", "Grid", "estimate"]


@dataclass(frozen=True)
class Grid:
    """What the estimators need to know of the integer grid.

    Attributes:
        symmetric: low = -high and zero point 0; otherwise a zero point is free.
        levels: Number of codes, 256 for 8 bits.
        percentile: Share of values inside the range in percent, for Estimator.PERCENTILE.
    """

    symmetric: bool
    levels: int
    percentile: float


Range = tuple[float, float]


def _minmax(histogram: Histogram, grid: Grid) -> Range:
    if grid.symmetric:
        return -histogram.amax, histogram.amax
    return min(histogram.min, 0.0), max(histogram.max, 0.0)


def _percentile(histogram: Histogram, grid: Grid) -> Range:
    """Clip (100 - percentile) % of the values: the largest magnitudes, or half of them on each side."""
    low, high, counts = histogram.intervals()
    outside = counts.sum() * (1 - grid.percentile / 100)
    if grid.symmetric:
        reach = np.maximum(-low, high)
        order = np.argsort(reach, kind="stable")
        threshold = _reach_without(reach[order], counts[order], outside)
        return -threshold, threshold
    one_sided = histogram.min >= 0 or histogram.max <= 0
    tail = outside if one_sided else outside / 2
    top = _reach_without(high, counts, tail) if histogram.max > 0 else 0.0
    bottom = _reach_without(-low[::-1], counts[::-1], tail) if histogram.min < 0 else 0.0
    return -max(bottom, 0.0), max(top, 0.0)


def _reach_without(reach: np.ndarray, counts: np.ndarray, outside: float) -> float:
    """Return the smallest entry of the ascending `reach` beyond which at most `outside` counts lie."""
    beyond = counts[::-1].cumsum()[::-1] - counts
    return float(reach[int(np.argmax(beyond <= outside + 1e-9 * counts.sum()))])


def _entropy(histogram: Histogram, grid: Grid) -> Range:
    one_sided = not grid.symmetric and (histogram.min >= 0 or histogram.max <= 0)
    threshold = entropy.threshold(histogram, groups=grid.levels if one_sided else grid.levels // 2)
    if grid.symmetric:
        return -threshold, threshold
    return max(min(histogram.min, 0.0), -threshold), min(max(histogram.max, 0.0), threshold)


def _mse(histogram: Histogram, grid: Grid) -> Range:
    if grid.symmetric:
        return mse.symmetric_range(histogram, grid.levels)
    return mse.asymmetric_range(histogram, grid.levels)


def _auto(histogram: Histogram, grid: Grid) -> Range:
    """Return what the best of the others finds, by the error measured on this very histogram."""
    found = (each(histogram, grid) for estimator, each in ESTIMATORS.items() if estimator is not Estimator.AUTO)
    return auto.least_error(histogram, found, grid.levels, symmetric=grid.symmetric)


ESTIMATORS: dict[Estimator, Callable[[Histogram, Grid], Range]] = {
    Estimator.MINMAX: _minmax,
    Estimator.PERCENTILE: _percentile,
    Estimator.ENTROPY: _entropy,
    Estimator.MSE: _mse,
    Estimator.AUTO: _auto,
}
"""A new estimator is a new member of `Estimator` and a row here."""


def estimate(histogram: Histogram, estimator: Estimator, *, symmetric: bool, levels: int = 256,
             percentile: float = 99.99) -> Range:
    """Return the real range that the integer grid should cover.

    Args:
        histogram: Of the tensor's values.
        estimator: How to weigh clipping against resolution.
        symmetric: INT8 with zero point 0 (low = -high), otherwise UINT8-like with a zero point.
        levels: Number of integer codes, 256 for 8 bits, even and at least 4.
        percentile: Share of values inside the range in percent, for Estimator.PERCENTILE.

    Returns:
        (low, high) with low <= 0 <= high and low < high. Data that is never negative gives low = 0 exactly in an
        asymmetric range, data never positive high = 0. A tensor that is zero throughout gets (-1, 1), or (0, 1):
        every grid holds it exactly. A bare range comes back as it is, whatever the estimator.

    Raises:
        CalibrationError: The histogram is empty, or counts infinities or NaN.
        SpecError: levels or percentile is out of its range.
    """
    if levels < 4 or levels % 2:
        raise SpecError(f"levels is {levels}; give an even number of integer codes, 256 for 8 bits")
    if not 50.0 < percentile <= 100.0:
        raise SpecError(f"percentile is {percentile}; it must lie above 50 and at most at 100")
    if not histogram.has_range:
        raise CalibrationError("A histogram without values has no range. Calibrate with at least one sample")
    if histogram.non_finite:
        raise CalibrationError(f"A histogram counts {histogram.non_finite} infinite or NaN values of "
                               f"{histogram.total}, so it has no range. Find the sample that gives them")
    if histogram.amax < np.finfo(np.float32).tiny * levels:  # its scale would not be a normal float32
        return (-1.0, 1.0) if symmetric else (0.0, 1.0)
    if histogram.is_bare_range:
        estimator = Estimator.MINMAX
    low, high = ESTIMATORS[Estimator(estimator)](histogram, Grid(symmetric, levels, percentile))
    return low + 0.0, high + 0.0  # no negative zeros
