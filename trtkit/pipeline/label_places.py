"""Points of a plot with labels of known size -> where each label goes so that none covers another, a point or the rim.

All lengths are in the same unit, such as pixels, with y upwards.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

__all__ = ["Box", "place_labels"]

_DIRECTIONS = tuple(math.radians(angle) for angle in (45, 135, 315, 225, 90, 270, 0, 180, 22, 158, 338, 202))
_RINGS = 12
"""Distances from the point that are tried, nearest first."""


@dataclass(frozen=True)
class Box:
    """An upright rectangle.

    Attributes:
        left, bottom, right, top: Its sides.
    """

    left: float
    bottom: float
    right: float
    top: float

    @classmethod
    def around(cls, x: float, y: float, width: float, height: float) -> Box:
        """Return the box of this size with its center at (x, y)."""
        return cls(x - width / 2, y - height / 2, x + width / 2, y + height / 2)

    def overlap(self, other: Box) -> float:
        """Return the area that both cover; 0 where they at most touch."""
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.top, other.top) - max(self.bottom, other.bottom)
        return max(width, 0.0) * max(height, 0.0)

    def outside(self, frame: Box) -> float:
        """Return the area that lies out of `frame`."""
        return (self.right - self.left) * (self.top - self.bottom) - self.overlap(frame)


def place_labels(points: Sequence[tuple[float, float]], radii: Sequence[float], sizes: Sequence[tuple[float, float]],
                 frame: Box, *, gap: float) -> list[Box]:
    """Return a box for the label of each point: near its point, inside the frame, on no other label and no marker.

    Greedy: each label takes the nearest free place among twelve directions at growing distance; where none is free,
    the one that covers least.

    Args:
        points: Center (x, y) of each marker.
        radii: Of each marker.
        sizes: (width, height) of each label.
        frame: What the labels should stay in.
        gap: Between a marker and its label, and the step of the distances.
    """
    taken = [Box.around(x, y, 2 * radius, 2 * radius) for (x, y), radius in zip(points, radii)]
    placed: list[Box] = []
    for point, radius, size in zip(points, radii, sizes):
        costs = ((sum(each.overlap(box) for box in taken) + each.outside(frame), place, each)
                 for place, each in enumerate(_candidates(point, radius, size, gap)))
        best = min(costs, key=lambda cost: cost[:2])[2]
        taken.append(best)
        placed.append(best)
    return placed


def _candidates(point: tuple[float, float], radius: float, size: tuple[float, float], gap: float) -> Iterator[Box]:
    for ring in range(1, _RINGS + 1):
        for angle in _DIRECTIONS:
            reach = radius + ring * gap
            x = point[0] + math.cos(angle) * reach + _sign(math.cos(angle)) * size[0] / 2
            y = point[1] + math.sin(angle) * reach + _sign(math.sin(angle)) * size[1] / 2
            yield Box.around(x, y, *size)


def _sign(value: float) -> float:
    return 0.0 if abs(value) < 1e-9 else math.copysign(1.0, value)
