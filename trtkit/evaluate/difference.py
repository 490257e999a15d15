"""Pairs of arrays, one after the other -> one summary of how far a tensor is from its reference, in constant memory."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from trtkit import metrics
from trtkit.errors import SpecError
from trtkit.tensors import Array

__all__ = ["Difference", "DifferenceSum"]


@dataclass(frozen=True)
class Difference:
    """How far one tensor is from its reference over all samples.

    Attributes:
        name: Of the tensor in the reference.
        max_abs_error: Largest absolute difference, in the tensor's own units; inf where only one is finite.
        mean_abs_error: Mean absolute difference, in the tensor's own units.
        cosine: Of the angle between both as vectors over all samples.
        sqnr_db: Signal to noise ratio in decibels; inf when equal.
        agreement: Share of equal top-1 classes over the last axis; None unless the shape is (N, C) or (N, T, C).
    """

    name: str
    max_abs_error: float
    mean_abs_error: float
    cosine: float
    sqnr_db: float
    agreement: float | None


class DifferenceSum:
    """Adds up what `Difference` needs.

    Args:
        name: Of the tensor.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._max = self._total = 0.0
        self._dot = self._reference = self._candidate = self._noise = 0.0
        self._elements = self._places = 0
        self._agreed = 0.0
        self._broken = False

    def add(self, reference: Array, candidate: Array) -> None:
        """Take one sample's pair of tensors.

        Raises:
            SpecError: Their shapes differ.
        """
        if reference.shape != candidate.shape:
            raise SpecError(f"Tensor '{self.name}' is {reference.shape} in the reference and {candidate.shape} in the "
                            "candidate. Compare two lowerings of one model")
        x, y = reference.astype(np.float64).ravel(), candidate.astype(np.float64).ravel()
        both = np.isfinite(x) & np.isfinite(y)
        self._broken |= bool(np.any(~both & ~((x == y) | (np.isnan(x) & np.isnan(y)))))
        x, y = x[both], y[both]
        error = x - y
        self._max = max(self._max, float(np.max(np.abs(error), initial=0.0)))
        self._total += float(np.sum(np.abs(error)))
        self._elements += x.size
        self._dot += float(np.dot(x, y))
        self._reference += float(np.dot(x, x))
        self._candidate += float(np.dot(y, y))
        self._noise += float(np.dot(error, error))
        if reference.ndim in (2, 3) and reference.shape[-1] > 1 and reference.size:
            places = reference.size // reference.shape[-1]
            self._agreed += metrics.agreement(reference, candidate) * places
            self._places += places

    def result(self) -> Difference:
        """Return the summary over everything that was added."""
        mean = self._total / self._elements if self._elements else 0.0
        agreement = self._agreed / self._places if self._places else None
        if self._broken:
            return Difference(self.name, math.inf, math.inf, 0.0, -math.inf, agreement)
        return Difference(self.name, self._max, mean,
                          metrics.cosine_of_sums(self._dot, self._reference, self._candidate),
                          metrics.sqnr_db_of_sums(self._reference, self._noise), agreement)
