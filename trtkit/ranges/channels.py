"""Per-channel sums and ranges of a tensor, exact whatever the order in which they are added.

A histogram forgets which channel a value came from. The mean error of quantized weights depends on it (bias
correction): per-sample channel means are added as integers, in steps of 2**-20, so that merged, resumed and sharded
sweeps give the same bytes. So does the range of a tensor whose channels are scaled (equalization, smoothing): smallest
and largest values are exact and merge by themselves.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["ChannelRange", "ChannelSums"]

_STEPS = 2.0**20
_LARGEST = 2.0**30


@dataclass(frozen=True)
class ChannelSums:
    """Sums over samples of the mean of each channel.

    Attributes:
        sums: In steps of 2**-20, shape (C,), int64.
        rows: How many samples were added.
    """

    sums: NDArray[np.int64]
    rows: int

    @classmethod
    def of(cls, means: NDArray[Any]) -> ChannelSums:
        """Return the sums of a batch.

        Args:
            means: Mean of each channel of each sample, shape (N, C) or (N, C, 1, ...), finite.
        """
        rows = means.reshape(means.shape[0], -1).astype(np.float64)
        steps = np.rint(np.clip(rows, -_LARGEST, _LARGEST) * _STEPS).astype(np.int64)
        return cls(steps.sum(axis=0), len(rows))

    def add(self, other: ChannelSums) -> ChannelSums:
        """Return the sums of both."""
        return ChannelSums(self.sums + other.sums, self.rows + other.rows)

    @property
    def means(self) -> NDArray[np.float64]:
        """Mean of each channel, shape (C,), in the tensor's own units."""
        return self.sums / (_STEPS * max(1, self.rows))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ChannelSums):
            return NotImplemented
        return self.rows == other.rows and np.array_equal(self.sums, other.sums)

    def scaled(self, factors: NDArray[Any]) -> ChannelSums:
        """Return the sums of the tensor times a factor a channel, shape (C,)."""
        return ChannelSums(np.rint(self.sums * factors).astype(np.int64), self.rows)


@dataclass(frozen=True, eq=False)
class ChannelRange:
    """The smallest and the largest value of each channel.

    Attributes:
        low, high: Shape (C,), float32, finite, low <= high.
    """

    low: NDArray[np.float32]
    high: NDArray[np.float32]

    @classmethod
    def of(cls, values: NDArray[Any], axis: int) -> ChannelRange:
        """Return the range of each channel of an array that is not empty.

        Args:
            values: Any shape.
            axis: The channel axis.
        """
        others = tuple(a for a in range(values.ndim) if a != axis % values.ndim)
        return cls(values.min(axis=others).astype(np.float32), values.max(axis=others).astype(np.float32))

    def add(self, other: ChannelRange) -> ChannelRange:
        """Return the range of the values of both."""
        return ChannelRange(np.minimum(self.low, other.low), np.maximum(self.high, other.high))

    @property
    def amax(self) -> NDArray[np.float32]:
        """Largest magnitude of each channel, shape (C,), in the tensor's own units."""
        return np.maximum(np.abs(self.low), np.abs(self.high))

    def scaled(self, factors: NDArray[Any]) -> ChannelRange:
        """Return the range of the tensor times a factor a channel, shape (C,), > 0."""
        return ChannelRange((self.low * factors).astype(np.float32), (self.high * factors).astype(np.float32))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ChannelRange):
            return NotImplemented
        return np.array_equal(self.low, other.low) and np.array_equal(self.high, other.high)

    __hash__ = None  # type: ignore[assignment]
