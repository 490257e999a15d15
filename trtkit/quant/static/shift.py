"""Adding a constant to an integer tensor: written with one zero point, read with another.

    (q - z) s = (q - w) s + c     with w = z + c / s, which must be an integer: s is stretched to the next c / k

A QLinearAdd would round a second time. PP-OCR's v4 recognizer adds a learned number before each depthwise convolution.
"""

from __future__ import annotations

import numpy as np

from trtkit.quant.scales.grids import Grid

__all__ = ["shifted_grids"]

_WIDEST = 2**0.5
"""A step that is stretched further loses more than a second rounding would."""


def shifted_grids(total: Grid, constant: float) -> tuple[Grid, Grid] | None:
    """Return the grids on which to write x and to read x + c from the same integers.

    Args:
        total: Grid wanted for x + c, asymmetric.
        constant: c, in the tensor's own units.

    Returns:
        (written, read), or None where c is too small against the step, or x would not have 0 on its grid.
    """
    steps = int(abs(constant) / float(total.scale) + 1e-3)
    if steps == 0 or abs(constant) / steps > _WIDEST * float(total.scale):
        return None
    scale = abs(constant) / steps
    low, _ = total.range
    smallest, largest = total.bounds
    read = int(np.clip(round(smallest - low / scale), smallest, largest))
    written = read + (steps if constant > 0 else -steps)
    if not smallest <= written <= largest:
        return None
    return Grid(np.float32(scale), written, total.bounds), Grid(np.float32(scale), read, total.bounds)
