"""Scales that training has found, exactly: they take the place of those that an estimator or a search would choose."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np

from trtkit.errors import CalibrationError
from trtkit.tensors import Array

__all__ = ["Learned", "LearnedGrid", "LearnedScales", "WeightKey"]

WeightKey: TypeAlias = "tuple[str, int | None]"
"""Name of a weight and the channel axis of its scales; None: one scale."""


def _are_scales(values: Array) -> bool:
    return bool(np.isfinite(values).all() and (values >= np.finfo(np.float32).tiny).all())


@dataclass(frozen=True)
class LearnedGrid:
    """The integer grid of an activation: x' = (clip(round(x / scale) + zero_point, *bounds) - zero_point) * scale.

    Attributes:
        scale: A float32 number, > 0.
        zero_point: Within the bounds.
        bounds: Smallest and largest integer.
    """

    scale: float
    zero_point: int
    bounds: tuple[int, int]

    def __post_init__(self) -> None:
        low, high = self.bounds
        if not _are_scales(np.asarray(self.scale)) or not low <= self.zero_point <= high:
            raise CalibrationError(f"A learned grid has scale {self.scale}, zero point {self.zero_point} and integers "
                                   f"from {low} to {high}. Train again with a lower learning rate")

    @property
    def range(self) -> tuple[float, float]:
        """Smallest and largest real value on the grid."""
        return tuple((bound - self.zero_point) * self.scale for bound in self.bounds)  # type: ignore[return-value]


@dataclass(frozen=True, eq=False)
class LearnedScales:
    """The scales of a weight: w' = clip(round(w / scale), -largest, largest) * scale.

    Attributes:
        scale: float32, > 0, shape (C,), or () for one scale.
        largest: Largest magnitude of an integer, such as 127.
    """

    scale: Array
    largest: int

    def __post_init__(self) -> None:
        if not _are_scales(self.scale):
            raise CalibrationError(f"Learned weight scales reach from {self.scale.min():.3g} to "
                                   f"{self.scale.max():.3g}. Train again with a lower learning rate")

    def for_largest(self, largest: int) -> Array:
        """Return the scales with which the same range is covered by integers up to `largest`."""
        return self.scale if largest == self.largest else (self.scale * (self.largest / largest)).astype(np.float32)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, LearnedScales):
            return NotImplemented
        return self.largest == other.largest and np.array_equal(self.scale, other.scale)

    __hash__ = None  # type: ignore[assignment]


@dataclass(frozen=True)
class Learned:
    """What quantization-aware training adds to a calibration.

    Attributes:
        grids: Grid of each activation tensor that was quantized in training.
        weights: Scales of each weight that was.
    """

    grids: Mapping[str, LearnedGrid] = field(default_factory=dict)
    weights: Mapping[WeightKey, LearnedScales] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.grids or self.weights)
