"""Per-channel sums of a tensor, exact whatever the order in which they are added.

A histogram forgets which channel a value came from; the mean error of quantized weights depends on it (bias
correction). Per-sample channel means are added as integers, in steps of 2**-20, so that merged, resumed and sharded
sweeps give the same bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["ChannelSums"]

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
