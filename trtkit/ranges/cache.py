"""Scales <-> NVIDIA's calibration cache, the text that TensorRT 8.5 to 10.x reads on the weak path.

    TRT-8502-EntropyCalibration2
    input: 3c010a14

One line a tensor: the bits of the float32 scale amax / 127, most significant first.
Source: trtexec v10.3, readScalesFromCalibrationCache; NVIDIA/Deep-Learning-Accelerator-SW, qdq-translator.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Mapping

from trtkit.errors import CalibrationError

__all__ = ["ENTROPY_2", "MIN_MAX", "cache_algorithm", "format_cache", "parse_cache", "version_number"]

ENTROPY_2, MIN_MAX = "EntropyCalibration2", "MinMaxCalibration"
"""Calibrators as the header names them. The first is what trtkit writes: the only one that a DLA takes as well, and
TensorRT uses its scales as they are, whatever estimator they came from."""

_HEADER = re.compile(r"TRT-\d+-(?P<algorithm>\w+)\s*")
_LINE = re.compile(r"(?P<name>.+): (?P<bits>[0-9a-fA-F]{1,8})\s*")


def version_number(version: str) -> int:
    """Return TensorRT's own version number: 8.5.2 -> 8502, 10.3.0 -> 100300 (NvInferVersion.h)."""
    parts = [int(part) for part in version.split(".")[:3]]
    major, minor, patch = parts + [0] * (3 - len(parts))
    return major * 10000 + minor * 100 + patch if major >= 10 else major * 1000 + minor * 100 + patch


def format_cache(scales: Mapping[str, float], tensorrt: str) -> bytes:
    """Return the cache file of a TensorRT version, such as "8.5.2"."""
    lines = [f"TRT-{version_number(tensorrt)}-{ENTROPY_2}"]
    lines += [f"{name}: {struct.pack('>f', scale).hex()}" for name, scale in scales.items()]
    return ("\n".join(lines) + "\n").encode()


def cache_algorithm(data: bytes) -> str:
    """Return the calibrator that a cache was written by, such as ENTROPY_2.

    Raises:
        CalibrationError: Its first line is not that of a calibration cache.
    """
    first = data[:200].decode("utf-8", errors="replace").split("\n", 1)[0]
    match = _HEADER.fullmatch(first)
    if match is None:
        raise CalibrationError(f"This is no TensorRT calibration cache: it begins with {first[:60]!r}, not with "
                               f"'TRT-<version>-{ENTROPY_2}'. Write one: trtkit quantize --target TARGET")
    return match["algorithm"]


def parse_cache(data: bytes) -> dict[str, float]:
    """Return the scales in a cache file, whichever calibrator wrote it.

    Raises:
        CalibrationError: It is no calibration cache, or a scale is not finite or negative; the line is named.
    """
    cache_algorithm(data)
    scales = {}
    lines = data.decode("utf-8", errors="replace").split("\n")
    for number, line in enumerate(lines[1:], start=2):
        if not line.strip() and number == len(lines):
            break
        match = _LINE.fullmatch(line)
        if match is None:
            raise CalibrationError(f"Line {number} of the calibration cache is {line[:80]!r}, not 'tensor: 3c010a14'. "
                                   "Write it anew: trtkit quantize --target TARGET")
        scale = struct.unpack(">f", bytes.fromhex(match["bits"].zfill(8)))[0]
        if not math.isfinite(scale) or scale < 0:
            raise CalibrationError(f"Line {number} of the calibration cache gives '{match['name']}' the scale {scale}. "
                                   "Write it anew: trtkit quantize --target TARGET")
        scales[match["name"]] = scale
    return scales
