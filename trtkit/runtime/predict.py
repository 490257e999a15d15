"""Scores of a model -> predictions with labels. numpy only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from trtkit.bundle.manifest import Postprocess
from trtkit.errors import SpecError
from trtkit.tensors import Array

__all__ = ["Prediction", "predict", "sigmoid", "softmax"]


@dataclass(frozen=True)
class Prediction:
    """One class that the model sees in a picture.

    Attributes:
        index: Of the class, counted from 0.
        label: Its name; the index as text where the bundle has no labels.
        score: Probability, 0 to 1.
    """

    index: int
    label: str
    score: float

    def __str__(self) -> str:
        return f"{self.label} ({self.score:.3f})"


def softmax(scores: Array) -> Array:
    """Return exp(scores) / sum(exp(scores)) over the last axis, float32, without overflow."""
    shifted = np.exp(scores.astype(np.float32) - scores.max(axis=-1, keepdims=True))
    total: Array = shifted / shifted.sum(axis=-1, keepdims=True)
    return total


def sigmoid(scores: Array) -> Array:
    """Return 1 / (1 + exp(-scores)), float32, without overflow."""
    decay = np.exp(-np.abs(scores.astype(np.float32)))
    return np.where(scores >= 0, 1 / (1 + decay), decay / (1 + decay))


def _as_they_are(scores: Array) -> Array:
    return scores.astype(np.float32)


_ACTIVATIONS = {"softmax": softmax, "sigmoid": sigmoid, "none": _as_they_are}


def predict(outputs: Mapping[str, Array], postprocess: Postprocess, labels: Sequence[str] = ()
            ) -> list[list[Prediction]]:
    """Return the predictions for each picture of a batch, best first.

    Args:
        outputs: Of a session, by name.
        postprocess: Which output holds the scores, of shape (N, C) or (N, C, 1, ...), and what to do with them.
        labels: Name of each of the C classes, or empty.

    Raises:
        SpecError: There is no such output, it has another shape, holds NaN, or C is not the number of labels.
    """
    name = postprocess.output or next(iter(outputs))
    if name not in outputs:
        raise SpecError(f"Postprocessing wants output '{name}'; the model has: {', '.join(outputs)}. "
                        "Correct 'output' in the bundle's postprocessing")
    scores = _rows(name, outputs[name])
    if labels and len(labels) != scores.shape[1]:
        raise SpecError(f"Output '{name}' has {scores.shape[1]} classes, the bundle has {len(labels)} labels. "
                        "Pack it again with one label a class, in the order of the output")
    rows = _ACTIVATIONS[postprocess.activation](scores)
    return [[Prediction(int(index), labels[index] if labels else str(index), float(row[index]))
             for index in _chosen(row, postprocess)] for row in rows]


def _rows(name: str, scores: Array) -> Array:
    if scores.ndim < 2 or any(size != 1 for size in scores.shape[2:]) or scores.shape[1] == 0:
        raise SpecError(f"Output '{name}' has shape {scores.shape}; classes need (N, C) with C >= 1. "
                        "Read it with session.run instead")
    if np.isnan(scores).any():
        raise SpecError(f"Output '{name}' holds NaN. The input does, or the lowering overflows: check the picture, "
                        "and compare with FP32: trtkit compare")
    return scores.reshape(scores.shape[:2])


def _chosen(row: Array, postprocess: Postprocess) -> Array:
    order = np.argsort(-row, kind="stable")
    if postprocess.task == "classification":
        return order[:postprocess.top]
    return order[row[order] >= postprocess.threshold]
