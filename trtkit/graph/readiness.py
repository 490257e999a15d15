"""A model as it comes -> one whose layers, weights and scales a quantizer can see.

Old exporters write weights as Constant nodes or compute them, name them through chains of Identity, leave
BatchNormalization beside the convolution, and use opsets without per-channel scales. A model in which something of this
kind stands goes through the passes of a preset; any other is left as it is.
"""

from __future__ import annotations

import logging

import onnx

from trtkit.graph.opset import model_opset
from trtkit.graph.presets import COMMON
from trtkit.graph.rewriting import rewrite

__all__ = ["made_ready", "why_not_ready"]

logger = logging.getLogger(__name__)

_SMALLEST_OPSET = 13
"""Per-channel DequantizeLinear (ONNX 1.10)."""

_IN_THE_WAY = ("Constant", "Identity", "Dropout")
_FOLDED_INTO = ("Conv", "ConvTranspose", "Gemm")


def made_ready(model: onnx.ModelProto, passes: tuple[str, ...] = COMMON) -> onnx.ModelProto:
    """Return a model that can be quantized: itself where nothing stands in the way, else after the passes.

    Tensors that stay keep their names and values, so a calibration of the one speaks of the other. The passes are not
    checked numerically here: the inputs that a model takes are not known at this place.

    Args:
        model: Any FP32 model; it stays as it is.
        passes: Such as the target's preset.

    Raises:
        PassError: A pass failed.
        SpecError: A pass is unknown.
    """
    reason = why_not_ready(model)
    if reason is None:
        return model
    logger.info("Rewritten before it is quantized: %s", reason)
    return rewrite(model, passes, verify=False).model


def why_not_ready(model: onnx.ModelProto) -> str | None:
    """Return what stands in the way of quantizing a model as it is, or None."""
    if model_opset(model) < _SMALLEST_OPSET:
        return f"it has opset {model_opset(model)}, scales a channel need {_SMALLEST_OPSET}"
    constants = {tensor.name for tensor in model.graph.initializer}
    makers = {name: node.op_type for node in model.graph.node for name in node.output}
    for node in model.graph.node:
        if node.op_type in _IN_THE_WAY:
            return f"it has {node.op_type} nodes"
        if node.op_type == "BatchNormalization" and makers.get(node.input[0]) in _FOLDED_INTO:
            return f"BatchNormalization stands behind {makers[node.input[0]]}"
        if node.input and all(name in constants for name in node.input if name) and not _holds_graph(node):
            return f"{node.op_type} computes constants"
    return None


def _holds_graph(node: onnx.NodeProto) -> bool:
    return any(item.HasField("g") or item.graphs for item in node.attribute)
