"""float32 values -> counts by the upper 16 bits of their pattern (sign, exponent, 7 bits of the mantissa).

65,536 possible bins, each 0.4 to 0.8 % of its value wide, so no range is needed in advance: counts are exact, and two
histograms merge by addition whatever the order. The smallest and the largest value are kept exactly.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trtkit.errors import CalibrationError

__all__ = ["BIN_COUNT", "UPPER_HALF", "Histogram", "count_patterns"]

BIN_COUNT = 1 << 16
_NEGATIVE = 0x8000  # sign bit of a pattern
_INFINITE = 0x7F80  # magnitudes from here up are infinite or not a number
UPPER_HALF = 1 if sys.byteorder == "little" else 0


def count_patterns(values: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return how many values fall into each bin.

    Args:
        values: C-contiguous float32, any shape.

    Returns:
        Counts by pattern, int64, as long as the largest pattern that occurs plus 1, at most BIN_COUNT.
    """
    return np.bincount(values.reshape(-1).view(np.uint16)[UPPER_HALF::2])


@dataclass(frozen=True, eq=False)
class Histogram:
    """Counts of the values that one tensor took, sparse.

    A bare range, as a calibration cache made elsewhere gives it, has min and max and no counts.

    Attributes:
        bins: Upper 16 bits of the float32 pattern of each bin that occurs, shape (N,), uint16, ascending.
        counts: Values in each bin, shape (N,), uint64, > 0.
        min, max: The smallest and the largest finite value, exact; 0.0 when there is none.
    """

    bins: NDArray[np.uint16]
    counts: NDArray[np.uint64]
    min: float
    max: float

    def __post_init__(self) -> None:
        ascending = self.bins.ndim == 1 and bool(np.all(self.bins[1:] > self.bins[:-1]))
        if not ascending or self.bins.shape != self.counts.shape or bool(np.any(self.counts == 0)):
            raise CalibrationError(f"A histogram needs ascending bins with one count above 0 each, got "
                                   f"{self.bins.shape} bins and {self.counts.shape} counts. Calibrate again")

    @classmethod
    def empty(cls) -> Histogram:
        """Return a histogram of no values."""
        return cls(np.empty(0, np.uint16), np.empty(0, np.uint64), 0.0, 0.0)

    @classmethod
    def of_range(cls, low: float, high: float) -> Histogram:
        """Return a bare range, low <= 0 <= high, with no counts."""
        return cls(np.empty(0, np.uint16), np.empty(0, np.uint64), low, high)

    @classmethod
    def of(cls, values: NDArray[Any]) -> Histogram:
        """Return the histogram of `values`, any shape; other dtypes are rounded to float32 first."""
        flat = np.ascontiguousarray(values, dtype=np.float32).reshape(-1)
        finite = flat[np.isfinite(flat)]
        low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
        return cls.from_counts(count_patterns(flat), low, high)

    @classmethod
    def from_counts(cls, counts: NDArray[Any], low: float, high: float) -> Histogram:
        """Return the sparse form of `counts` by pattern, shape (up to BIN_COUNT,), with the exact extremes."""
        bins = np.flatnonzero(counts)
        return cls(bins.astype(np.uint16), counts[bins].astype(np.uint64), low, high)

    @classmethod
    def sum(cls, histograms: Iterable[Histogram]) -> Histogram:
        """Return the histogram of all values of all `histograms`."""
        return reduce(cls.add, histograms, cls.empty())

    def add(self, other: Histogram) -> Histogram:
        """Return the histogram of the values of both."""
        if not self.total or not other.total:
            return self if self.total else other
        bins, place = np.unique(np.concatenate([self.bins, other.bins]), return_inverse=True)
        counts = np.zeros(bins.size, np.uint64)
        counts[place[:self.bins.size]] = self.counts
        counts[place[self.bins.size:]] += other.counts
        extremes = [(part.min, part.max) for part in (self, other) if part.total > part.non_finite]
        low = min((each[0] for each in extremes), default=0.0)
        high = max((each[1] for each in extremes), default=0.0)
        return Histogram(bins, counts, low, high)

    @property
    def total(self) -> int:
        """How many values were counted."""
        return int(self.counts.sum())

    @property
    def is_bare_range(self) -> bool:
        """Whether only its ends are known: nothing was counted here."""
        return not self.counts.size and self.min < self.max

    @property
    def has_range(self) -> bool:
        """Whether there is a range to estimate: values were counted, or its ends are known."""
        return bool(self.counts.size) or self.is_bare_range

    @property
    def zeros(self) -> int:
        """How many values were zero, or so small (below 2**-133) that they share its bin."""
        return int(self.counts[(self.bins & ~np.uint16(_NEGATIVE)) == 0].sum())

    @property
    def non_finite(self) -> int:
        """How many values were infinite or not a number."""
        return int(self.counts[(self.bins & ~np.uint16(_NEGATIVE)) >= _INFINITE].sum())

    @property
    def amax(self) -> float:
        """The largest finite magnitude, exact."""
        return max(abs(self.min), abs(self.max))

    def intervals(self) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Return the finite bins by ascending value: lower edges, upper edges and counts, float64, shape (M,) each.

        The outermost edges are drawn in to `min` and `max`, so no edge lies beyond a value that occurred.
        """
        magnitude = self.bins & np.uint16(_NEGATIVE - 1)
        finite = magnitude < _INFINITE
        magnitude, counts = magnitude[finite].astype(np.uint32), self.counts[finite].astype(np.float64)
        negative = self.bins[finite] >= _NEGATIVE
        inner = (magnitude << np.uint32(16)).view(np.float32).astype(np.float64)
        with np.errstate(over="ignore"):
            outer = (((magnitude + np.uint32(1)) << np.uint32(16)).view(np.float32)).astype(np.float64)
        outer[~np.isfinite(outer)] = np.finfo(np.float32).max
        low, high = np.where(negative, -outer, inner), np.where(negative, -inner, outer)
        order = np.lexsort((high, low))
        low, high = np.clip(low[order], self.min, self.max), np.clip(high[order], self.min, self.max)
        return low, high, counts[order]

    def sample(self, shape: tuple[int, ...], generator: np.random.Generator) -> NDArray[np.float32]:
        """Return random values of this distribution, to the resolution of the bins; uniform ones of a bare range."""
        if self.is_bare_range:
            return generator.uniform(self.min, self.max, shape).astype(np.float32)
        low, high, counts = self.intervals()
        if not counts.size:
            return np.zeros(shape, np.float32)
        place = generator.choice(counts.size, shape, p=counts / counts.sum())
        return generator.uniform(low[place], high[place]).astype(np.float32)

    def mean(self) -> float:
        """Return the mean of the finite values, to the resolution of the bins."""
        low, high, counts = self.intervals()
        return float(((low + high) / 2 * counts).sum() / counts.sum()) if counts.size else 0.0

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Histogram):
            return NotImplemented
        return ((self.min, self.max) == (other.min, other.max) and np.array_equal(self.bins, other.bins)
                and np.array_equal(self.counts, other.counts))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Histogram({self.total} values in [{self.min:.6g}, {self.max:.6g}], {self.bins.size} bins)"
