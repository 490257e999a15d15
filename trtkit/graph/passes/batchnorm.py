"""BatchNormalization(Conv(x)) -> Conv(x), and so for ConvTranspose and Gemm.

    gain = scale / sqrt(var + epsilon)
    W'   = W * gain along the output channels,   b' = (b - mean) * gain + shift
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from trtkit.graph.editor import Editor, constant, given, producer
from trtkit.graph.rule import Outcome, Pass, for_each
from trtkit.tensors import Array

__all__ = ["FOLD_BATCHNORM", "HOSTS", "scale_outputs"]


def _fold(editor: Editor, owner: gs.Graph, node: gs.Node) -> Outcome:
    host = producer(node.inputs[0])
    if host is None or host.op not in HOSTS or host.domain:
        return f"its input comes from {host.op if host else 'a graph input'}, not from Conv, ConvTranspose or Gemm"
    if node.attrs.get("training_mode", 0) or len(node.outputs) > 1:
        return "it is in training mode"
    if not editor.is_inner(node.inputs[0]):
        return f"the output of {host.op} '{host.name}' is read by others as well"
    if not any(other is host for other in owner.nodes):
        return f"{host.op} '{host.name}' lies in the graph around this one"
    parameters = [constant(tensor) for tensor in node.inputs[1:5]]
    weight = constant(host.inputs[1])
    bias = given(host, 2)
    offset = np.float32(0) if bias is None else constant(bias)
    if weight is None or offset is None or any(parameter is None for parameter in parameters):
        return "its parameters, or the weights before it, are computed"
    if host.op == "Gemm" and (host.attrs.get("alpha", 1.0) != 1.0 or host.attrs.get("beta", 1.0) != 1.0):
        return f"Gemm '{host.name}' has alpha or beta"
    if bias is not None and offset.size not in (1, len(parameters[0])):  # type: ignore[arg-type]
        return f"the bias of {host.op} '{host.name}' is not one value per channel"
    scale, shift, mean, variance = (np.asarray(parameter, np.float64) for parameter in parameters)
    gain = scale / np.sqrt(variance + node.attrs.get("epsilon", 1e-5))
    folded_bias = (np.asarray(offset, np.float64).reshape(-1) - mean) * gain + shift
    new_weight = editor.constant(f"{host.inputs[1].name}_bn", scale_outputs(weight, gain, host))
    new_bias = editor.constant(f"{node.outputs[0].name}_bias", folded_bias.astype(weight.dtype))
    host.inputs = [host.inputs[0], new_weight, new_bias]
    return editor.bypass(owner, node, node.inputs[0])


def scale_outputs(weight: Array, gain: Array, host: gs.Node) -> Array:
    """Return the weights of one of HOSTS times `gain`, shape (C_out,), along its output channels; through float64."""
    return HOSTS[host.op](np.asarray(weight, np.float64), gain, host).astype(weight.dtype)


def _conv(weight: Array, gain: Array, host: gs.Node) -> Array:
    """Weights (M, C / group, ...)."""
    return weight * gain.reshape(-1, *[1] * (weight.ndim - 1))


def _conv_transpose(weight: Array, gain: Array, host: gs.Node) -> Array:
    """Weights (C, M / group, ...): group g holds C / group rows, its outputs are M / group neighbours."""
    group = host.attrs.get("group", 1)
    split = weight.reshape(group, weight.shape[0] // group, *weight.shape[1:])
    return (split * gain.reshape(group, 1, -1, *[1] * (weight.ndim - 2))).reshape(weight.shape)


def _gemm(weight: Array, gain: Array, host: gs.Node) -> Array:
    """Weights (K, N), or (N, K) when transposed."""
    return weight * (gain.reshape(-1, 1) if host.attrs.get("transB", 0) else gain)


HOSTS = {"Conv": _conv, "ConvTranspose": _conv_transpose, "Gemm": _gemm}

FOLD_BATCHNORM = Pass("fold-batchnorm", "Fold BatchNormalization into Conv, ConvTranspose or Gemm before it",
                      for_each(("BatchNormalization",), _fold))
