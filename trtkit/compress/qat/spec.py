"""What is trained besides the weights."""

from __future__ import annotations

from enum import Enum

__all__ = ["Scales"]


class Scales(str, Enum):
    """What becomes of the scales that a calibration has chosen."""

    LEARNED = "learned"
    """They are trained with the weights (LSQ). Zero points stay."""
    FIXED = "fixed"
    """They stay; the weights learn to live with them."""
