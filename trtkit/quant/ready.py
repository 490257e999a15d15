"""A model as it comes -> the very graph that a target's lowering quantizes, for the lowering and for training."""

from __future__ import annotations

from dataclasses import replace

import onnx

from trtkit.graph.model import infer_shapes, upgrade_opset
from trtkit.graph.opset import model_opset
from trtkit.graph.presets import COMMON, preset
from trtkit.graph.readiness import made_ready
from trtkit.precision import Precision, QuantSpec
from trtkit.quant.floats.mixed import SCALE_OPSET, keep_small
from trtkit.quant.scales.equalize import equalize
from trtkit.quant.scales.smooth import smooth
from trtkit.ranges import CalibrationTable
from trtkit.target import Target

__all__ = ["at_opset", "ready_for", "rescale", "static_subject"]

_SMALLEST_OPSET = 13
"""Per-channel DequantizeLinear (ONNX 1.10)."""


def ready_for(model: onnx.ModelProto, target: Target) -> onnx.ModelProto:
    """Return a model after the passes of the target's preset, where something stands in the way, types inferred."""
    passes = tuple(name for name in preset(target) if name in COMMON)  # none that changes the types of inputs
    return infer_shapes(upgrade_opset(made_ready(model, passes), _SMALLEST_OPSET))


def at_opset(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    """Return a model at this opset at least, types inferred."""
    return model if model_opset(model) >= opset else infer_shapes(upgrade_opset(model, opset))


def rescale(model: onnx.ModelProto, table: CalibrationTable,
            spec: QuantSpec) -> tuple[onnx.ModelProto, CalibrationTable, tuple[str, ...]]:
    """Return a model that computes the same with evener channels, its table, and notes, as the spec asks."""
    notes: tuple[str, ...] = ()
    if table.learned and (spec.equalize or spec.smoothing):
        return model, table, ("channel ranges left as they were in training, which has learned its scales for them",)
    if spec.equalize:
        model, table, count = equalize(model, table)
        notes += (f"channel ranges of {count} tensors between convolutions equalized",)
    if spec.smoothing:
        model, table, count = smooth(model, table, spec.smoothing)
        notes += (f"outliers of {count} normalized tensors moved into weights",)
    return model, table, notes


def static_subject(model: onnx.ModelProto, target: Target, precision: Precision,
                   spec: QuantSpec) -> tuple[onnx.ModelProto, QuantSpec]:
    """Return the model and the spec with which INT8 by static scales places Q/DQ.

    Args:
        model: From `ready_for`.
        target: Where it will run.
        precision: INT8 or INT8_FP16, which needs a newer opset and, on TensorRT-RTX, leaves small layers in FP16.
        spec: What the user asks for.
    """
    if precision is not Precision.INT8_FP16:
        return model, spec
    model = at_opset(model, SCALE_OPSET)
    if target.runtime != "tensorrt_rtx":
        return model, spec
    return model, replace(spec, keep=keep_small(model, spec.keep))
