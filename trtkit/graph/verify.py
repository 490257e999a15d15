"""Two models and random inputs -> nothing, or an error that names the pass, the worst tensor and by how much.

An element passes when |actual - expected| <= RTOL * |expected| + ATOL * max(1, rms(expected)); the absolute part grows
with the tensor because the rounding error of an element near zero comes from the large terms that cancel in it.
"""

from __future__ import annotations

import numpy as np
import onnx

from trtkit.errors import GraphError, PassError
from trtkit.graph.rule import Pass
from trtkit.graph.run import run_model
from trtkit.tensors import Array

__all__ = ["check"]

RTOL = 1e-4
ATOL = 1e-5
_HALF_FACTOR = 100.0
"""Looser by this much for tensors of 16 bits."""


def check(step: Pass, before: onnx.ModelProto, after: onnx.ModelProto, seed: int) -> None:
    """Raise PassError when a rewritten model does not compute what its pass promises.

    Raises:
        PassError: The numbers differ, outputs are missing, or only the rewritten model fails to run.
        GraphError: The original cannot be run either.
    """
    try:
        comparison = step.reference(before, after, seed)
    except GraphError as err:
        raise GraphError(f"Pass '{step.name}' cannot be checked, since the model does not run before it: {err}. "
                         "Or rewrite without the check: verify=False (--no-verify)") from err
    try:
        actual = run_model(after, comparison.feeds, optimize=False)
    except GraphError as err:
        raise PassError(f"Pass '{step.name}' made a model that does not run: {err}") from err
    if actual.keys() != comparison.expected.keys():
        raise PassError(f"Pass '{step.name}' returned outputs {sorted(actual)}, not {sorted(comparison.expected)}. "
                        "Leave it out, and report it")
    faults = [(ratio, text) for name, expected in comparison.expected.items()
              for ratio, text in [_difference(name, actual[name], expected)] if ratio > 1]
    if faults:
        raise PassError(f"Pass '{step.name}' changed the numbers: {max(faults)[1]}. Leave it out, and report it")


def _difference(name: str, actual: Array, expected: Array) -> tuple[float, str]:
    """Return how many times the tolerance the worst element is off, and that as text."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    if actual.shape != expected.shape or actual.dtype != expected.dtype:
        return np.inf, (f"output '{name}' is {actual.dtype}{list(actual.shape)}, "
                        f"not {expected.dtype}{list(expected.shape)}")
    if expected.size == 0:
        return 0.0, ""
    if expected.dtype.kind in "biuOSU":
        wrong = int(np.count_nonzero(actual != expected))
        return (np.inf if wrong else 0.0), f"output '{name}' differs in {wrong} of {expected.size} elements"
    factor = _HALF_FACTOR if expected.dtype.itemsize < 4 else 1.0
    got, want = actual.astype(np.float64), expected.astype(np.float64)
    same = (got == want) | (np.isnan(got) & np.isnan(want))
    finite = np.isfinite(want)
    rms = float(np.sqrt(np.mean(np.square(want[finite])))) if finite.any() else 0.0
    error = np.where(same, 0.0, np.abs(got - np.where(finite, want, np.inf)))
    error = np.where(np.isnan(error), np.inf, error)
    tolerance = factor * (RTOL * np.where(finite, np.abs(want), 0.0) + ATOL * max(1.0, rms))
    worst = int(np.argmax(error / tolerance))
    return float((error / tolerance).flat[worst]), (
        f"output '{name}' is off by {error.flat[worst]:.3g} at {tuple(map(int, np.unravel_index(worst, error.shape)))} "
        f"({got.flat[worst]:.6g}, expected {want.flat[worst]:.6g}; tolerance {tolerance.flat[worst]:.3g})")
