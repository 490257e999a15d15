"""Arrays in, numbers out: how far two tensors are apart, and how good predictions are against labels.

All of it is numpy in float64; nothing here knows a model or a file.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from trtkit.errors import SpecError
from trtkit.tensors import Array

__all__ = [
    "agreement",
    "average_precision",
    "cosine",
    "f1",
    "max_abs_error",
    "mean_abs_error",
    "mean_average_precision",
    "sqnr_db",
    "top_k_accuracy",
    "top_k_hits",
]

Labels = Sequence[Sequence[int]]


def cosine(a: Array, b: Array) -> float:
    """Return the cosine of the angle between two tensors taken as vectors, from -1 to 1.

    Args:
        a, b: Any shape, the same; any real dtype.

    Returns:
        a.b / (|a| |b|); 1.0 when both are all zeros (they are equal), 0.0 when one is.

    Raises:
        SpecError: The shapes differ.
    """
    x, y = _pair(a, b)
    return cosine_of_sums(float(np.dot(x, y)), float(np.dot(x, x)), float(np.dot(y, y)))


def cosine_of_sums(dot: float, square_a: float, square_b: float) -> float:
    """Return the cosine from sums that were gathered piece by piece: a.b, a.a and b.b."""
    if square_a == 0 or square_b == 0:
        return 1.0 if square_a == square_b else 0.0
    return float(np.clip(dot / (math.sqrt(square_a) * math.sqrt(square_b)), -1.0, 1.0))


def sqnr_db(reference: Array, candidate: Array) -> float:
    """Return the signal to quantization noise ratio in decibels; higher is closer, inf is equal.

    Args:
        reference: The signal, any shape.
        candidate: The signal with its noise, the same shape.

    Returns:
        10 log10(sum(reference^2) / sum((reference - candidate)^2)).

    Raises:
        SpecError: The shapes differ.

    Source: Widrow and Kollar, Quantization Noise (2008), chapter 1.
    """
    x, y = _pair(reference, candidate)
    noise = x - y
    return sqnr_db_of_sums(float(np.dot(x, x)), float(np.dot(noise, noise)))


def sqnr_db_of_sums(signal: float, noise: float) -> float:
    """Return the ratio in decibels from sums of squares that were gathered piece by piece."""
    if noise == 0:
        return math.inf
    return 10 * (math.log10(signal) - math.log10(noise)) if signal > 0 else -math.inf


def max_abs_error(a: Array, b: Array) -> float:
    """Return the largest absolute difference, in the tensors' own units; 0.0 for empty tensors.

    Raises:
        SpecError: The shapes differ.
    """
    x, y = _pair(a, b)
    return float(np.max(np.abs(x - y))) if x.size else 0.0


def mean_abs_error(a: Array, b: Array) -> float:
    """Return the mean absolute difference, in the tensors' own units; 0.0 for empty tensors.

    Raises:
        SpecError: The shapes differ.
    """
    x, y = _pair(a, b)
    return float(np.mean(np.abs(x - y))) if x.size else 0.0


def agreement(a: Array, b: Array, *, axis: int = -1) -> float:
    """Return the share of places where both tensors have their largest value at the same index (top-1 agreement).

    Args:
        a, b: Scores of the same shape, such as (N, C).
        axis: The class axis.

    Returns:
        From 0 to 1. Equal largest values count at the first index, as numpy.argmax does.

    Raises:
        SpecError: The shapes differ, or there is nothing to compare.
    """
    x, y = np.asarray(a), np.asarray(b)
    if x.shape != y.shape or x.ndim == 0 or x.size == 0:
        raise SpecError(f"Top-1 agreement needs two non-empty tensors of one shape, got {x.shape} and {y.shape}")
    return float(np.mean(np.argmax(x, axis=axis) == np.argmax(y, axis=axis)))


def top_k_hits(scores: Array, labels: Labels, k: int = 1) -> NDArray[np.bool_]:
    """Return for each sample whether one of its accepted classes is among its k best scores.

    Args:
        scores: Shape (N, C).
        labels: The accepted class ids of each of the N samples, one or several.
        k: How many of the best scores count, >= 1; all of them when larger than C.

    Returns:
        Shape (N,), bool. Of equal scores the lower class id ranks first.

    Raises:
        SpecError: The shapes do not fit, a sample has no label, or a label is no class of the model.
    """
    values = np.asarray(scores)
    if values.ndim != 2 or len(labels) != values.shape[0] or k < 1:
        raise SpecError(f"Top-{k} needs scores of shape (N, C) and N label sets, got {values.shape} and {len(labels)}")
    for sample, accepted in enumerate(labels):
        if not accepted or min(accepted) < 0 or max(accepted) >= values.shape[1]:
            raise SpecError(f"Sample {sample} has labels {tuple(accepted)}; the model scores classes 0 to "
                            f"{values.shape[1] - 1}. Label each sample with at least one of them")
    best = np.argsort(-_comparable(values), axis=1, kind="stable")[:, :k]
    return np.array([bool(np.isin(row, tuple(accepted)).any()) for row, accepted in zip(best, labels)], dtype=bool)


def top_k_accuracy(scores: Array, labels: Labels, k: int = 1) -> float:
    """Return the share of samples with an accepted class among the k best scores; see `top_k_hits`.

    Raises:
        SpecError: As `top_k_hits`, or there are no samples.
    """
    hits = top_k_hits(scores, labels, k)
    if not hits.size:
        raise SpecError(f"Top-{k} accuracy of no samples. Give at least one")
    return float(np.mean(hits))


def average_precision(scores: Array, truth: Array) -> float:
    """Return the area under the precision-recall curve of one class, as a sum over recall steps.

    Args:
        scores: Shape (N,), higher is more certain; equal scores form one step.
        truth: Shape (N,), bool or 0/1, at least one of them true.

    Returns:
        sum over n of (R_n - R_(n-1)) P_n, from 0 to 1, without interpolation.

    Raises:
        SpecError: The shapes differ, or nothing is true.

    Source: Zhu, Recall, Precision and Average Precision (2004); scikit-learn's average_precision_score.
    """
    values, positive = _comparable(np.asarray(scores)).ravel(), np.asarray(truth).astype(bool).ravel()
    if values.shape != positive.shape or not positive.any():
        raise SpecError(f"Average precision needs scores and truth of one length with something true, got "
                        f"{values.size} scores, {positive.size} labels and {int(positive.sum())} true ones")
    order = np.argsort(-values, kind="stable")
    values, positive = values[order], positive[order]
    step_ends = np.append(np.flatnonzero(np.diff(values)), values.size - 1)
    true_positives = np.cumsum(positive)[step_ends]
    precision = true_positives / (step_ends + 1)
    gained_recall = np.diff(true_positives, prepend=0) / positive.sum()
    return float(np.sum(gained_recall * precision))


def mean_average_precision(scores: Array, truth: Array) -> float:
    """Return the mean of `average_precision` over the classes that occur (multi-label mAP, macro).

    Args:
        scores: Shape (N, C).
        truth: Shape (N, C), bool or 0/1; classes without a true label are left out.

    Raises:
        SpecError: The shapes differ, or no class occurs.
    """
    values, positive = _matrices(scores, truth)
    occurring = np.flatnonzero(positive.any(axis=0))
    if not occurring.size:
        raise SpecError(f"Mean average precision over {values.shape[1]} classes, none of which occurs in the labels. "
                        "Give labelled samples")
    return float(np.mean([average_precision(values[:, c], positive[:, c]) for c in occurring]))


def f1(scores: Array, truth: Array, *, threshold: float = 0.5, average: str = "micro") -> float:
    """Return the multi-label F1 score of the predictions `scores >= threshold`.

    Args:
        scores: Shape (N, C).
        truth: Shape (N, C), bool or 0/1.
        threshold: In the units of the scores.
        average: "micro" counts over all classes; "macro" takes the mean of each class's F1.

    Returns:
        2 TP / (2 TP + FP + FN), from 0 to 1; 0.0 where nothing is true and nothing predicted.

    Raises:
        SpecError: The shapes differ, or `average` is neither.

    Source: van Rijsbergen, Information Retrieval (1979); scikit-learn's f1_score with zero_division=0.
    """
    if average not in ("micro", "macro"):
        raise SpecError(f"F1 average is '{average}'. Choose one of: micro, macro")
    values, positive = _matrices(scores, truth)
    predicted = values >= threshold
    hits = np.sum(predicted & positive, axis=0, dtype=np.float64)
    total = np.sum(predicted, axis=0, dtype=np.float64) + np.sum(positive, axis=0, dtype=np.float64)
    if average == "micro":
        hits, total = hits.sum(keepdims=True), total.sum(keepdims=True)
    return float(np.mean(np.divide(2 * hits, total, out=np.zeros_like(total), where=total > 0))) if total.size else 0.0


def _pair(a: Array, b: Array) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    x, y = np.asarray(a), np.asarray(b)
    if x.shape != y.shape:
        raise SpecError(f"Tensors of shape {x.shape} and {y.shape} cannot be compared. Give two of one shape")
    return x.astype(np.float64).ravel(), y.astype(np.float64).ravel()


def _matrices(scores: Array, truth: Array) -> tuple[Array, NDArray[np.bool_]]:
    values, positive = np.asarray(scores), np.asarray(truth).astype(bool)
    if values.ndim != 2 or values.shape != positive.shape:
        raise SpecError(f"Multi-label scores and truth are both (N, C), got {values.shape} and {positive.shape}")
    return _comparable(values), positive


def _comparable(values: Array) -> Array:
    """Return values that can be negated and sorted: unsigned and half types as float64, the rest as it is."""
    return values if values.dtype in (np.float32, np.float64) else values.astype(np.float64)
