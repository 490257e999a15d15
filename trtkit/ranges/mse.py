"""Histogram -> range with the least mean squared quantization error: rounding inside it plus clipping beyond it.

In units of the step, x is coded as n = clip(round(x), lowest, highest); its squared error (x - n)**2 has the
antiderivative n/12 + (x - n)**3 / 3, clipped parts included. So the error of a bin is exact for values spread evenly
over it, however its width compares with the step.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray

from trtkit.ranges.histogram import Histogram

__all__ = ["asymmetric_range", "quantization_error", "symmetric_range"]

Floats = NDArray[np.float64]

_COARSE = 2.0 ** -(np.arange(0, 97) / 8)  # 12 octaves, the unclipped range first
_FINE = 2.0 ** (np.arange(-8, 9) / 64)
_SLOTS = 1 << 14  # candidates x bins evaluated at once: 128 KiB an array, so all of them stay in cache


def symmetric_range(histogram: Histogram, levels: int) -> tuple[float, float]:
    """Return (-high, high) for the codes -levels/2 .. levels/2-1 with zero point 0."""
    def error(factors: Floats) -> Floats:
        high = histogram.amax * factors
        return quantization_error(histogram, -high, high, levels, symmetric=True)

    high = histogram.amax * _best_factor(error)
    return -high, high


def asymmetric_range(histogram: Histogram, levels: int) -> tuple[float, float]:
    """Return (low, high) around 0 for the codes 0 .. levels-1; one-sided data keeps its 0.

    Both sides shrink together first, then each in turn; a second round settles it.
    """
    low, high = min(histogram.min, 0.0), max(histogram.max, 0.0)

    def error(down: Floats, up: Floats) -> Floats:
        lows, highs = np.broadcast_arrays(low * down, high * up)
        return quantization_error(histogram, lows, highs, levels, symmetric=False)

    down = up = np.array([_best_factor(lambda both: error(both, both))])
    for _ in range(2 if low < 0 < high else 0):
        up = np.array([_best_factor(partial(error, down))])
        down = np.array([_best_factor(partial(error, up=up))])
    return low * float(down[0]), high * float(up[0])


def _best_factor(error: Callable[[Floats], Floats]) -> float:
    coarse = float(_COARSE[int(np.argmin(error(_COARSE)))])
    fine = np.unique(np.minimum(coarse * _FINE, 1.0))[::-1]
    return float(fine[int(np.argmin(error(fine)))])


def quantization_error(histogram: Histogram, low: Floats, high: Floats, levels: int, *, symmetric: bool) -> Floats:
    """Return the mean squared quantization error of the histogram's finite values for each candidate range.

    Args:
        histogram: Of the tensor's values.
        low, high: Candidate ranges around 0, shape (K,), low < high; low = -high when symmetric.
        levels: Number of codes.
        symmetric: Zero point 0 and scale high / (levels/2-1); else scale (high - low) / (levels-1) and the zero
            point rounded to a code, as ONNX QuantizeLinear has it.

    Returns:
        Errors in squared units of the tensor, shape (K,), float64.
    """
    if symmetric:
        step = high / (levels // 2 - 1)
        first = np.full_like(step, -(levels // 2))
    else:
        step = (high - low) / (levels - 1)
        first = np.rint(low / step)
    start, end, counts = histogram.intervals()
    errors = np.empty_like(step)
    rows = max(1, _SLOTS // max(start.size, 1))
    for at in range(0, step.size, rows):
        part = slice(at, at + rows)
        errors[part] = _bin_errors(start, end, step[part, None], first[part, None], levels) @ counts
    return np.asarray(errors / counts.sum())


def _bin_errors(start: Floats, end: Floats, step: Floats, first: Floats, levels: int) -> Floats:
    """Return the mean squared error of each bin, in squared units, shape (K, bins)."""
    last = first + (levels - 1)
    scale = 1 / step
    left, right = start * scale, end * scale
    left_code, right_code = (np.minimum(np.maximum(np.rint(x), first), last) for x in (left, right))
    width = right - left
    left_code -= left  # from here on code - x: its sign does not matter squared, and is turned back cubed
    right_code -= right
    left_square, right_square = left_code * left_code, right_code * right_code
    area = (right_code - left_code + width) / 12 - (right_square * right_code - left_square * left_code) / 3
    narrow = end - start <= 1e-6 * np.maximum(np.abs(start), np.abs(end))
    mean = np.where(narrow, left_square, area / np.where(narrow, 1.0, width))
    return np.asarray(mean * (step * step))
