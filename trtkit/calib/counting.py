"""Arrays -> counts, fast and without holding the interpreter's lock, so that workers do not wait for one another.

The compiled loop (trtkit/calib/_counting.c) takes about 1 ns a value; where it was not compiled, numpy.bincount on
chunks that stay in the cache does the same in about 1.7 ns (numpy.add.at counts as fast but holds the lock).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from trtkit.ranges import ChannelRange, ChannelSums, Histogram
from trtkit.ranges.histogram import BIN_COUNT, UPPER_HALF
from trtkit.tensors import Array

try:
    from trtkit.calib._counting import count as _compiled
except ImportError:
    _compiled = None

__all__ = ["Counter", "Counts", "count_with_numpy"]

_LANES = 64  # scratch of the compiled loop, behind the bins
_CHUNK = 1 << 17  # values: 512 KiB of float32 and 1 MiB of indices

CountInto = Callable[[NDArray[np.float32], NDArray[np.int64]], tuple[float, float]]


def count_with_numpy(values: NDArray[np.float32], bins: NDArray[np.int64]) -> tuple[float, float]:
    """Add a flat array to the counts by pattern; return its smallest and largest value.

    Args:
        values: Contiguous, at least one.
        bins: Of shape (65536 + 64,), the last 64 unused.
    """
    low, high = math.inf, -math.inf
    for start in range(0, values.size, _CHUNK):
        chunk = values[start:start + _CHUNK]
        counted = np.bincount(chunk.view(np.uint16)[UPPER_HALF::2])
        bins[:counted.size] += counted
        low, high = min(low, float(chunk.min())), max(high, float(chunk.max()))
    return low, high


_count: CountInto = _compiled or count_with_numpy


class Counts:
    """Dense counts of one tensor, and its extremes so far. Pages that are never touched take no memory."""

    def __init__(self) -> None:
        self.bins: NDArray[np.int64] = np.zeros(BIN_COUNT + _LANES, np.int64)
        self.low, self.high = math.inf, -math.inf

    def add(self, values: Array) -> bool:
        """Count an array, any shape, floating point; return whether all of it is finite.

        Counts after an array that is not finite are of no use.
        """
        flat = np.ascontiguousarray(values, dtype=np.float32).reshape(-1)
        if not flat.size:
            return True
        low, high = _count(flat, self.bins)
        self.low, self.high = min(self.low, low), max(self.high, high)
        return math.isfinite(low) and math.isfinite(high)  # infinities and NaN have the largest patterns

    def merge_into(self, other: Counts) -> None:
        """Add these counts to `other`."""
        other.bins += self.bins
        other.low, other.high = min(self.low, other.low), max(self.high, other.high)

    def histogram(self) -> Histogram:
        """Return the sparse form."""
        empty = self.low > self.high
        return Histogram.from_counts(self.bins[:BIN_COUNT], 0.0 if empty else self.low, 0.0 if empty else self.high)


class Counter:
    """Counts arrays, adds up channel means and widens channel ranges, by tensor name; for one thread."""

    def __init__(self) -> None:
        self.tensors: dict[str, Counts] = {}
        self.channels: dict[str, ChannelSums] = {}
        self.ranges: dict[str, ChannelRange] = {}

    def add(self, name: str, values: Array) -> bool:
        """Count an array, any shape, floating point; return whether all of it is finite."""
        if name not in self.tensors:
            self.tensors[name] = Counts()
        return self.tensors[name].add(values)

    def add_means(self, name: str, means: Array) -> None:
        """Add the channel means of a batch, shape (N, C, ...) with one position; what is not finite is left out."""
        if np.isfinite(means).all():
            sums = ChannelSums.of(means)
            self.channels[name] = self.channels[name].add(sums) if name in self.channels else sums

    def add_range(self, name: str, values: Array, axis: int) -> None:
        """Widen the channel ranges of a tensor by an array that has at least one axis and one value."""
        seen = ChannelRange.of(values, axis)
        self.ranges[name] = self.ranges[name].add(seen) if name in self.ranges else seen
