"""An ONNX model and torch's results -> a report of how close ONNX Runtime comes to them, case by case."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnxruntime

from trtkit import metrics
from trtkit.export.exporters import ExporterFailed, reason
from trtkit.export.options import ExportOptions
from trtkit.export.reference import Case, Reference
from trtkit.export.report import CaseParity, OutputParity, ParityReport
from trtkit.tensors import Array

__all__ = ["compare_outputs", "verify"]

_FATAL_ONLY = 4  # errors come as exceptions; ONNX Runtime would print them as well


def verify(model: bytes | Path, reference: Reference, options: ExportOptions) -> ParityReport:
    """Return how close the model comes to torch, for every case that it takes.

    Raises:
        ExporterFailed: ONNX Runtime does not load the model, or does not run it at sizes that torch runs.
    """
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = _FATAL_ONLY
    try:
        session = onnxruntime.InferenceSession(model if isinstance(model, bytes) else str(model), settings,
                                               providers=["CPUExecutionProvider"])
    except Exception as err:
        raise ExporterFailed(f"ONNX Runtime does not load the model: {reason(err)}") from err
    cases = tuple(CaseParity(case.label, _case_parity(session, case, options)) for case in reference.cases)
    warnings, vacuous = _vacuity(reference)
    return ParityReport(cases, (*reference.refusals.values(), *warnings), vacuous)


def compare_outputs(name: str, wanted: Array, got: Array, options: ExportOptions) -> OutputParity:
    """Return one output of ONNX Runtime against torch's.

    Args:
        name: Of the output.
        wanted, got: Torch's and ONNX Runtime's values.
        options: The tolerances.
    """
    if wanted.shape != got.shape or wanted.dtype != got.dtype:
        return OutputParity(name, np.inf, 0.0, 0.0, None, f"output '{name}' is {got.dtype}{got.shape} in ONNX Runtime "
                                                          f"and {wanted.dtype}{wanted.shape} in torch")
    want, have = wanted.astype(np.float64), got.astype(np.float64)
    finite = np.isfinite(want)
    with np.errstate(invalid="ignore"):
        error = np.where((want == have) | (np.isnan(want) & np.isnan(have)), 0.0, np.abs(want - have))
    error = np.where(np.isnan(error), np.inf, error)
    peak = float(np.max(np.abs(want[finite]))) if finite.any() else 0.0
    tolerance = options.tolerance(wanted.dtype.name, peak)
    worst = float(error.max()) if error.size else 0.0
    return OutputParity(
        name, worst, tolerance,
        cosine=metrics.cosine(np.nan_to_num(want), np.nan_to_num(have)),
        agreement=metrics.agreement(want, have) if want.ndim in (2, 3) and want.size and want.shape[-1] > 1 else None,
        divergence=_divergence(name, want, have, error, tolerance) if worst > tolerance else None)


def _case_parity(session: onnxruntime.InferenceSession, case: Case, options: ExportOptions) -> tuple[OutputParity, ...]:
    fed = {each.name for each in session.get_inputs()}
    unused = [name for name in case.feeds if name not in fed]
    try:
        got = session.run(list(case.outputs), {name: array for name, array in case.feeds.items() if name in fed})
    except Exception as err:
        raise ExporterFailed(f"ONNX Runtime fails at {case.label}: {reason(err)}") from err
    if unused and len(unused) == len(case.feeds):
        raise ExporterFailed("the model has no input left: its outputs do not depend on any")
    return tuple(compare_outputs(name, wanted, np.asarray(array), options)
                 for (name, wanted), array in zip(case.outputs.items(), got))


def _divergence(name: str, want: Array, have: Array, error: Array, tolerance: float) -> str:
    place = np.unravel_index(int(np.argmax(error)), error.shape)
    at = f"[{', '.join(str(int(i)) for i in place)}]"
    return (f"output '{name}'{at} is {have[place]:.6g} in ONNX Runtime and {want[place]:.6g} in torch "
            f"(error {error[place]:.3g}, tolerance {tolerance:.3g})")


def _vacuity(reference: Reference) -> tuple[list[str], bool]:
    constants = {name: value for name in reference.outputs
                 if (value := _constant([case.outputs for case in reference.cases], name)) is not None}
    warnings = [f"output '{name}' is {value:g} whatever goes in, so its match shows nothing"
                + (": give trained weights, or random BatchNorm statistics" if value == 0 else "")
                for name, value in constants.items()]
    return warnings, len(constants) == len(reference.outputs)


def _constant(runs: list[Mapping[str, Array]], name: str) -> float | None:
    values = np.concatenate([np.asarray(run[name], np.float64).ravel() for run in runs])
    if not values.size or not np.isfinite(values).all():
        return None if np.isfinite(values).any() else float("nan")
    peak = float(np.max(np.abs(values)))
    return float(values[0]) if float(np.ptp(values)) <= 1e-12 * max(peak, 1e-12) else None
