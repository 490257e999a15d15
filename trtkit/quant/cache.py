"""Calibration table <-> NVIDIA's calibration cache, the text that TensorRT 8.5 to 10.x reads on the weak path.

    TRT-8502-EntropyCalibration2
    input: 3c010a14

One line a tensor: the bits of the float32 scale amax / 127, most significant first.
Source: trtexec v10.3, readScalesFromCalibrationCache; NVIDIA/Deep-Learning-Accelerator-SW, qdq-translator.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping

from trtkit.errors import CalibrationError
from trtkit.precision import QuantSpec
from trtkit.ranges import CalibrationTable, estimate

__all__ = ["cache_scales", "format_cache", "parse_cache", "version_number"]

_ALGORITHM = "EntropyCalibration2"
"""What IInt8EntropyCalibrator2 expects in the header, the only calibrator that DLA takes as well. The scales may come
from any estimator: TensorRT takes them as they are."""


def version_number(version: str) -> int:
    """Return TensorRT's own version number: 8.5.2 -> 8502, 10.3.0 -> 100300 (NvInferVersion.h)."""
    parts = [int(part) for part in version.split(".")[:3]]
    major, minor, patch = parts + [0] * (3 - len(parts))
    return major * 10000 + minor * 100 + patch if major >= 10 else major * 1000 + minor * 100 + patch


def cache_scales(table: CalibrationTable, spec: QuantSpec) -> dict[str, float]:
    """Return the symmetric INT8 scale amax / 127 of every tensor that the table saw with values other than zero."""
    scales = {}
    for name, histogram in table.tensors.items():
        if histogram.total:
            _, high = estimate(histogram, spec.estimator, symmetric=True, percentile=spec.percentile)
            if high > 0:
                scales[name] = high / 127
    return scales


def format_cache(scales: Mapping[str, float], tensorrt: str) -> bytes:
    """Return the cache file of a TensorRT version, such as "8.5.2"."""
    lines = [f"TRT-{version_number(tensorrt)}-{_ALGORITHM}"]
    lines += [f"{name}: {struct.unpack('<I', struct.pack('<f', scale))[0]:08x}" for name, scale in scales.items()]
    return ("\n".join(lines) + "\n").encode()


def parse_cache(data: bytes) -> dict[str, float]:
    """Return the scales in a cache file.

    Raises:
        CalibrationError: It is no calibration cache; the line is named.
    """
    lines = data.decode("utf-8", errors="replace").splitlines()
    if not lines or not lines[0].startswith("TRT-"):
        raise CalibrationError(f"This is no TensorRT calibration cache: its first line is {lines[0][:60] if lines else ''!r}, "
                               "not 'TRT-<version>-<algorithm>'")
    scales = {}
    for number, line in enumerate(lines[1:], start=2):
        name, colon, digits = line.rpartition(": ")
        try:
            bits = int(digits, 16)
            scales[name] = struct.unpack("<f", struct.pack("<I", bits))[0]
        except (ValueError, struct.error) as err:
            raise CalibrationError(f"Line {number} of the calibration cache is {line[:80]!r}, not 'tensor: 3c010a14'") from err
        if not colon:
            raise CalibrationError(f"Line {number} of the calibration cache is {line[:80]!r}, not 'tensor: 3c010a14'")
    return scales
