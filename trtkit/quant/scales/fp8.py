"""float32 <-> FP8 E4M3 (ONNX FLOAT8E4M3FN): 4 bits of exponent, 3 of mantissa, up to 448, no infinities.

Source: Micikevicius et al., FP8 Formats for Deep Learning, 2022, table 1; scales of amax / 448 as in section 3.3.
"""

from __future__ import annotations

import numpy as np

from trtkit.tensors import Array

__all__ = ["LARGEST", "encode_e4m3"]

LARGEST = 448.0
"""Largest value of the format."""

_CODES = np.arange(127)
_VALUES = np.where(_CODES < 8, _CODES * 2.0**-9, (1 + (_CODES & 7) / 8) * 2.0**((_CODES >> 3) - 7.0))
"""The value of each code without a sign, ascending."""

_MIDDLES = (_VALUES[1:] + _VALUES[:-1]) / 2


def encode_e4m3(values: Array) -> Array:
    """Return the nearest FP8 codes, ties to even mantissas; what is beyond 448 saturates.

    Args:
        values: float32, finite, any shape.

    Returns:
        Codes, uint8, in the shape of `values`.
    """
    magnitude = np.abs(values).astype(np.float64)
    codes = np.searchsorted(_MIDDLES, magnitude)  # a tie goes down
    ties = magnitude == _MIDDLES[np.minimum(codes, _MIDDLES.size - 1)]
    codes += ties & (codes % 2 == 1) & (codes < _MIDDLES.size)
    return np.asarray(codes.astype(np.uint8) | np.where(np.signbit(values), np.uint8(0x80), np.uint8(0)))
