"""What can go wrong, as one tree; every error says what happened, where with the values, and what to do next.

    TrtkitError
     |- MissingDependencyError (ImportError)   package, feature, pip extra
     |- SpecError (ValueError)                 shapes, dtypes, recipe, flags
     |- ExportError                            module path, operator
     |- GraphError > PassError                 pass, node, op_type
     |- CalibrationError                       empty or spent loader, non-finite, wrong range, stale table
     |- AccuracyError                          metric, value, tolerance, worst tensors
     |- TrainingError                          step, loss, batch; a checkpoint of other training
     |- BuildError                             parser errors with node; TensorRT's own last lines
     |- BundleError > EngineMismatchError      hash, format, signature; SM and version on both sides
     '- DeviceError                            CUDA call, code, name; bytes asked when out of memory
"""

from __future__ import annotations

__all__ = [
    "AccuracyError",
    "BuildError",
    "BundleError",
    "CalibrationError",
    "DeviceError",
    "EngineMismatchError",
    "ExportError",
    "GraphError",
    "MissingDependencyError",
    "PassError",
    "SpecError",
    "TrainingError",
    "TrtkitError",
]


class TrtkitError(Exception):
    """Base of every error that trtkit raises on purpose."""


class MissingDependencyError(TrtkitError, ImportError):
    """A package that this feature needs is not installed or does not load."""


class SpecError(TrtkitError, ValueError):
    """A shape, dtype, recipe key, flag or other argument is not usable."""


class ExportError(TrtkitError):
    """A torch module could not be turned into an ONNX model that computes the same."""


class GraphError(TrtkitError):
    """An ONNX model cannot be read, written or understood."""


class PassError(GraphError):
    """A graph pass failed, or changed the numbers that it promised to keep."""


class CalibrationError(TrtkitError):
    """Calibration data or a calibration table cannot be used."""


class AccuracyError(TrtkitError):
    """A lowered model differs from its FP32 source by more than the tolerance."""


class TrainingError(TrtkitError):
    """A torch module cannot be trained, or a checkpoint cannot be written, read or used."""


class BuildError(TrtkitError):
    """TensorRT refused the model or failed to build an engine."""


class BundleError(TrtkitError):
    """A bundle is damaged, unsafe, of an unknown format, or lacks what was asked for."""


class EngineMismatchError(BundleError):
    """A plan was built for another device or another TensorRT."""


class DeviceError(TrtkitError):
    """A CUDA or device call failed."""
