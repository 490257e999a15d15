"""A module -> the ONNX model that a target gets of it, for timing alone: speed depends on shapes, not on weights."""

from __future__ import annotations

import onnx
import torch

from trtkit.calib import DataSource, calibrate, open_data
from trtkit.errors import SpecError
from trtkit.export.exporting import export_onnx
from trtkit.export.inputs import Example, named_inputs
from trtkit.export.options import ExportOptions
from trtkit.graph import model_inputs, preset, rewrite
from trtkit.precision import Precision
from trtkit.quant.lower import Lowered, lower
from trtkit.target import Target
from trtkit.tensors import Feeds

__all__ = ["example_feeds", "lowered_for", "rewritten_for"]


def rewritten_for(module: torch.nn.Module, example: Example, target: Target) -> onnx.ModelProto:
    """Return a module as FP32 ONNX after the target's passes, every size fixed at the example's.

    Args:
        module: In any mode; it is left as it was.
        example: As export_onnx takes it; its batch is the batch that is timed.
        target: Gives the opset and the passes.

    Raises:
        ExportError: The module cannot be exported.
        SpecError: The example does not fit the module.
    """
    exported = export_onnx(module, example, ExportOptions(opset=target.opset, batch=None))
    if not isinstance(exported.model, bytes):
        raise SpecError(f"{type(module).__name__} has more than 2 GB of weights, too many to be timed in memory. "
                        "Export it and use: trtkit bench")
    return rewrite(onnx.load_model_from_string(exported.model), preset(target), verify=False).model


def example_feeds(module: torch.nn.Module, example: Example) -> Feeds:
    """Return the example as the exported model is fed it."""
    return named_inputs(module, example, ExportOptions(batch=None)).feeds()


def lowered_for(model: onnx.ModelProto, target: Target, precision: Precision, feeds: Feeds,
                samples: DataSource | None = None) -> Lowered:
    """Return a model as `target` runs it in `precision`.

    Args:
        model: From `rewritten_for`.
        target, precision: See `lower`.
        feeds: What a calibrated precision is calibrated on, when there are no samples: the ranges do not matter for
            how fast it runs.
        samples: Real data to calibrate on.

    Raises:
        SpecError: The target does not run this precision.
    """
    target.check(precision)
    if not precision.calibrated:
        return lower(model, target, precision)
    image = max(model_inputs(model), key=lambda spec: len(spec.shape))
    table = calibrate(model, samples or open_data([feeds], input=image), workers=1)
    return lower(model, target, precision, table=table)
