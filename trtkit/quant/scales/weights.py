"""Constant operand -> integer grid: one scale an output channel, chosen to minimise the squared rounding error."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from trtkit.tensors import Array

__all__ = ["QuantizedWeight", "quantize_weight", "weight_on_grid"]

_SHRINK = np.linspace(1.0, 0.7, 13, dtype=np.float32)
"""Clipping thresholds that are tried, as shares of the largest magnitude. At 8 bits the best lies close to 1."""


@dataclass(frozen=True)
class QuantizedWeight:
    """Integers and their scales.

    Attributes:
        values: int8, in the shape of the source.
        scale: float32, shape (C,) along `axis`, or () for one scale; all > 0.
        axis: Channel axis, or None.
    """

    values: Array
    scale: Array
    axis: int | None

    def dequantized(self) -> Array:
        """Return values * scale, float32, in the shape of the source."""
        return self.values * _along(self.scale, self.axis, self.values.ndim)


def quantize_weight(weight: Array, axis: int | None, *, largest: int = 127,
                    smallest_scale: Array | float = 0.0) -> QuantizedWeight:
    """Quantize a weight symmetrically.

    Args:
        weight: float32, finite, any shape.
        axis: Channel axis of the scales; None for one scale.
        largest: Largest magnitude on the integer grid: 127, or 64 for 7-bit weights.
        smallest_scale: Lower bound of the scales (keeps an INT32 bias b / (s_x * s_w) in range), () or (C,).

    Returns:
        round(weight / scale) clipped to +-largest, with the scales that minimise the squared error of each channel.

    Source: Nagel et al., A White Paper on Neural Network Quantization, 2021, section 3.1 (MSE range setting).
    """
    rows = weight.reshape(1, -1) if axis is None else np.moveaxis(weight, axis, 0).reshape(weight.shape[axis], -1)
    amax = np.abs(rows).max(axis=1)
    amax[amax < np.finfo(np.float32).tiny * 256] = largest  # (nearly) all zero: its scale would not be a normal float32
    best_scale = amax / largest
    best_error = np.full(len(rows), np.inf, np.float32)
    for shrink in _SHRINK:
        scale = amax * (shrink / largest)
        error = rows / scale[:, None]
        np.clip(np.rint(error), -largest, largest, out=error)
        error *= scale[:, None]
        error -= rows
        mse = np.einsum("ij,ij->i", error, error)
        better = mse < best_error
        best_scale[better], best_error[better] = scale[better], mse[better]
    scale = np.maximum(best_scale, np.asarray(smallest_scale, np.float32)).astype(np.float32)
    return weight_on_grid(weight, scale.reshape(()) if axis is None else scale, axis, largest=largest)


def weight_on_grid(weight: Array, scale: Array, axis: int | None, *, largest: int = 127) -> QuantizedWeight:
    """Return round(weight / scale) clipped to +-largest.

    Args:
        weight: float32, finite, any shape.
        scale: float32, > 0, shape (C,) along `axis`, or ().
        axis: Channel axis of the scales; None for one scale.
        largest: Largest magnitude on the integer grid.
    """
    values = np.clip(np.rint(weight / _along(scale, axis, weight.ndim)), -largest, largest).astype(np.int8)
    return QuantizedWeight(values, scale, axis)


def _along(scale: Array, axis: int | None, rank: int) -> Array:
    return scale if axis is None else scale.reshape([-1 if i == axis else 1 for i in range(rank)])
