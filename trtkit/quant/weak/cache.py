"""Calibration table <-> the scales of NVIDIA's calibration cache (trtkit.ranges.cache reads and writes its text)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import onnx

from trtkit.calib.observed import find_observed
from trtkit.errors import CalibrationError
from trtkit.graph import fingerprint
from trtkit.precision import QuantSpec
from trtkit.quant.index import GraphIndex
from trtkit.quant.placement import get_placement
from trtkit.quant.scales.grids import learned_grid
from trtkit.ranges import CalibrationTable, Histogram, estimate
from trtkit.ranges.cache import parse_cache

__all__ = ["cache_scales", "cover_fused", "table_from_cache"]

_PLACEMENT = "tensorrt"
_WEIGHTED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
_POSITIVE = frozenset({"Relu", "Sigmoid", "HardSigmoid", "Softmax", "Abs", "Exp", "Sqrt"})
_KEEPS_SIGN = frozenset({"MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "Concat", "Flatten", "Reshape",
                         "Transpose", "Squeeze", "Unsqueeze", "Identity", "Dropout"})


def cache_scales(table: CalibrationTable, spec: QuantSpec) -> dict[str, float]:
    """Return the symmetric INT8 scale amax / 127 of every tensor that the table saw; 1 / 127 for one that is all 0.

    Where a scale was learned it is that one, to the bit.
    """
    learned = {name: float(learned_grid(table, name, get_placement(_PLACEMENT)).scale) for name in table.learned.grids}
    scales = {}
    for name, histogram in table.tensors.items():
        if histogram.has_range:
            _, high = estimate(histogram, spec.estimator, symmetric=True, percentile=spec.percentile)
            scales[name] = high / 127
    return {**scales, **learned}


def cover_fused(index: GraphIndex, scales: Mapping[str, float]) -> dict[str, float]:
    """Return the scales with those of the layer outputs added that have none.

    Calibration does not count what a single Relu or Clip reads, and caches made from Q/DQ models leave out the sum's
    side that a convolution computes: TensorRT and the DLA compute both in one kernel, and the scale in between does
    nothing. A tensor without one may still keep its layer out of INT8 (TensorRT says so in a warning), so it gets that
    of what reads it.

    Source: NVIDIA/Deep-Learning-Accelerator-SW, qdq-translator --add_unary_ew_scales_for_dla.
    """
    covered = dict(scales)
    for node in reversed(index.nodes):
        fusing = ("Relu", "Clip", "Add") if node.op_type in _WEIGHTED else ("Relu", "Clip")
        reader = index.activation_after(node, fusing) if node.output else None
        if reader is not None and reader.output[0] in covered:
            covered.setdefault(node.output[0], covered[reader.output[0]])
    return covered


def table_from_cache(model: onnx.ModelProto, cache: bytes) -> tuple[CalibrationTable, tuple[str, ...]]:
    """Return a table of bare ranges, and the tensors that a calibration would count and the cache does not have.

    Every estimator gives a bare range back as it is: how it was chosen was decided where the cache was made. The table
    has no samples and its data is named "cache-" and a hash, so that it never passes for one of data. The lower end is
    0 where the operator's values cannot be negative, so that a grid with a zero point loses nothing.

    Args:
        model: The FP32 model that the cache was made for, with the same tensor names.
        cache: Written by TensorRT, trtexec, or trtkit for some other version.

    Raises:
        CalibrationError: It is no cache, or has none of the model's tensors.
    """
    scales = parse_cache(cache)
    observed, positive = find_observed(model), _never_negative(GraphIndex(model))
    sources = {**{name: name for name in (*observed.inputs, *observed.tensors)}, **observed.copies}
    found = {name: scales.get(name, scales.get(source)) for name, source in sources.items()}
    tensors = {name: _range(scale, name in positive) for name, scale in found.items() if scale is not None}
    if not tensors:
        raise CalibrationError(f"None of the cache's {len(scales)} tensors, such as '{next(iter(scales), '')}', is in "
                               f"this model, whose inputs are {', '.join(observed.inputs)}. Give the model that it was "
                               "made for, before any renaming")
    data = f"cache-{hashlib.sha256(cache).hexdigest()[:32]}"
    missing = tuple(name for name, scale in found.items() if scale is None)
    return CalibrationTable(tensors, 0, fingerprint(model), data, ""), missing


def _range(scale: float, positive: bool) -> Histogram:
    amax = 127 * scale or 1.0  # of a tensor that is 0 throughout, which every grid holds
    return Histogram.of_range(0.0 if positive else -amax, amax)


def _never_negative(index: GraphIndex) -> set[str]:
    positive: set[str] = set()
    for node in index.nodes:
        if node.output and _is_positive(index, node, positive):
            positive.add(node.output[0])
    return positive


def _is_positive(index: GraphIndex, node: Any, positive: set[str]) -> bool:
    if node.op_type == "Clip":
        bounds = index.clip_bounds(node)
        return bounds is not None and bounds[0] >= 0
    if node.op_type == "Concat":
        return all(name in positive for name in node.input)
    return node.op_type in _POSITIVE or (node.op_type in _KEEPS_SIGN and node.input[0] in positive)
