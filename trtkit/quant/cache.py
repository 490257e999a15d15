"""Calibration table <-> NVIDIA's calibration cache, the text that TensorRT 8.5 to 10.x reads on the weak path.

    TRT-8502-EntropyCalibration2
    input: 3c010a14

One line a tensor: the bits of the float32 scale amax / 127, most significant first.
Source: trtexec v10.3, readScalesFromCalibrationCache; NVIDIA/Deep-Learning-Accelerator-SW, qdq-translator.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping

from trtkit.errors import CalibrationError
from trtkit.precision import QuantSpec
from trtkit.quant.index import GraphIndex
from trtkit.ranges import CalibrationTable, estimate

__all__ = ["cache_scales", "cover_fused", "format_cache", "parse_cache", "version_number"]

_ALGORITHM = "EntropyCalibration2"
"""What IInt8EntropyCalibrator2 expects in the header, the only calibrator that DLA takes as well. The scales may come
from any estimator: TensorRT takes them as they are."""

_LINE = re.compile(r"(?P<name>.+): (?P<bits>[0-9a-fA-F]{1,8})")


def version_number(version: str) -> int:
    """Return TensorRT's own version number: 8.5.2 -> 8502, 10.3.0 -> 100300 (NvInferVersion.h)."""
    parts = [int(part) for part in version.split(".")[:3]]
    major, minor, patch = parts + [0] * (3 - len(parts))
    return major * 10000 + minor * 100 + patch if major >= 10 else major * 1000 + minor * 100 + patch


def cache_scales(table: CalibrationTable, spec: QuantSpec) -> dict[str, float]:
    """Return the symmetric INT8 scale amax / 127 of every tensor that the table saw; 1 / 127 for one that is all 0."""
    scales = {}
    for name, histogram in table.tensors.items():
        if histogram.total:
            _, high = estimate(histogram, spec.estimator, symmetric=True, percentile=spec.percentile)
            scales[name] = high / 127
    return scales


def cover_fused(index: GraphIndex, scales: Mapping[str, float]) -> dict[str, float]:
    """Return the scales with those of the layer outputs added that the table leaves out.

    Calibration does not count what a single Relu or Clip reads: TensorRT computes both in one kernel, and the scale in
    between does nothing. A tensor without one may still keep its layer out of INT8 (TensorRT says so in a warning),
    so it gets that of the activation's output.
    """
    covered = dict(scales)
    for node in index.nodes:
        activation = index.activation_after(node, ("Relu", "Clip")) if node.output else None
        if activation is not None and activation.output[0] in scales:
            covered.setdefault(node.output[0], scales[activation.output[0]])
    return covered


def format_cache(scales: Mapping[str, float], tensorrt: str) -> bytes:
    """Return the cache file of a TensorRT version, such as "8.5.2"."""
    lines = [f"TRT-{version_number(tensorrt)}-{_ALGORITHM}"]
    lines += [f"{name}: {struct.pack('>f', scale).hex()}" for name, scale in scales.items()]
    return ("\n".join(lines) + "\n").encode()


def parse_cache(data: bytes) -> dict[str, float]:
    """Return the scales in a cache file.

    Raises:
        CalibrationError: It is no calibration cache; the line is named.
    """
    first, *lines = data.decode("utf-8", errors="replace").replace("\r\n", "\n").split("\n")
    if not first.startswith("TRT-"):
        raise CalibrationError(f"This is no TensorRT calibration cache: its first line is {first[:60]!r}, not "
                               "'TRT-<version>-<algorithm>'. Write one: trtkit quantize --target TARGET")
    if lines and not lines[-1]:
        lines.pop()
    scales = {}
    for number, line in enumerate(lines, start=2):
        match = _LINE.fullmatch(line)
        if match is None:
            raise CalibrationError(f"Line {number} of the calibration cache is {line[:80]!r}, not 'tensor: 3c010a14'. "
                                   "Write it anew: trtkit quantize --target TARGET")
        scales[match["name"]] = struct.unpack(">f", bytes.fromhex(match["bits"].zfill(8)))[0]
    return scales
