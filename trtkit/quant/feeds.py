"""A calibration table -> random inputs that look, value by value, like the data that it was made of."""

from __future__ import annotations

import numpy as np
import onnx

from trtkit.graph import random_feeds
from trtkit.ranges import CalibrationTable
from trtkit.tensors import Array

__all__ = ["feeds_like"]


def feeds_like(table: CalibrationTable, model: onnx.ModelProto, seed: int = 0) -> dict[str, Array]:
    """Return feeds of one sample whose floats follow the histograms of the inputs; others are as in random_feeds.

    Plain noise of mean 0 leaves the calibrated range of an input of pixels, and saturates what is not broken.

    Args:
        table: Calibration of this model.
        model: What to feed.
        seed: The same seed gives the same values.
    """
    generator = np.random.default_rng(seed)
    return {name: table.tensors[name].sample(array.shape, generator).astype(array.dtype)
            if name in table.tensors and array.dtype.kind == "f" else array
            for name, array in random_feeds(model, seed).items()}
