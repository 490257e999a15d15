"""Constant Mul, Div, Add and Sub beside a Conv, ConvTranspose or Gemm -> its weights and bias.

    (W x + b) * s      ->  (s W) x + s b        (W x + b) + t  ->  W x + (b + t)        after any of them
    W (s x) + b        ->  (W s) x + b                                                  before a Conv
    W (s x + t) + b    ->  (W s) (x + t / s) + b                                        before a padded Conv
    W (s x + t) + b    ->  (W s) x + (b + sum_k W_k t)                                  before one without padding

s and t are one number or one a channel. PP-OCR's recognizers are full of both: learnable scales and shifts around each
activation function, and biases as separate additions. What stays between two convolutions keeps them apart: neither
TensorRT's nor ONNX Runtime's integer kernels fuse across a multiplication.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_graphsurgeon as gs

from trtkit.graph.editor import Editor, constant, given, producer
from trtkit.graph.passes.batchnorm import HOSTS, scale_outputs
from trtkit.graph.rule import Outcome, Pass, for_each
from trtkit.tensors import Array

__all__ = ["FOLD_AFFINE"]

_Affine = tuple[gs.Tensor, Array, Array]
"""x, gain and shift: what a node makes is x * gain + shift; each () or, aligned with x's last axes, of few axes."""


def _after_host(editor: Editor, owner: gs.Graph, node: gs.Node) -> Outcome:
    found = _affine(node)
    host = None if found is None else producer(found[0])
    if found is None or host is None or host.op not in HOSTS or host.domain:
        return False
    weight, bias = constant(host.inputs[1]), given(host, 2)
    offset = np.float32(0) if bias is None else constant(bias)
    if weight is None or offset is None:
        return "weights or bias are computed"
    channels = _channels_out(host, weight)
    gain, shift = (_along_channels(value, weight.ndim, channels) for value in found[1:])
    if gain is None or shift is None:
        return "its constant is not one value per channel"
    if not editor.is_inner(found[0]) or not any(other is host for other in owner.nodes):
        return f"the output of {host.op} '{host.name}' is read by others as well"
    if host.op == "Gemm" and (host.attrs.get("alpha", 1.0) != 1.0 or host.attrs.get("beta", 1.0) != 1.0):
        return f"Gemm '{host.name}' has alpha or beta"
    if bias is not None and offset.size not in (1, channels):
        return f"the bias of {host.op} '{host.name}' is not one value per channel"
    folded = np.broadcast_to(np.asarray(offset, np.float64).reshape(-1) * gain + shift, (channels,))
    new_weight = host.inputs[1]
    if (gain != 1).any():
        new_weight = editor.constant(f"{new_weight.name}_scaled",
                                     scale_outputs(weight, np.broadcast_to(gain, (channels,)), host))
    host.inputs = [host.inputs[0], new_weight,
                   editor.constant(f"{node.outputs[0].name}_bias", folded.astype(weight.dtype))]
    return editor.bypass(owner, node, found[0])


def _before_conv(editor: Editor, owner: gs.Graph, node: gs.Node) -> Outcome:
    """Try the last node of x * gain, x + shift or x * gain + shift, read by convolutions alone."""
    found = _affine(node)
    output = node.outputs[0]
    if found is None or editor.is_pinned(output) or not _feeds_convolutions(owner, output):
        return False
    if _ends_gelu(found[0]):
        return "it ends a GELU, which the runtime recognizes as a whole"
    x, gain, shift = found
    scale = producer(x, "Mul", "Div")
    inner = None if scale is None else _affine(scale)
    if inner is not None and editor.is_inner(x) and any(other is scale for other in owner.nodes):
        x, gain = inner[0], inner[1]
    else:
        scale = None
    size = output.shape and len(output.shape)
    if x.shape is None or size != len(x.shape) or size < 3:
        return False
    channels = {constant(reader.inputs[1]).shape[1] * reader.attrs.get("group", 1)  # type: ignore[union-attr]
                for reader in output.outputs}
    rows = [_along_channels(value, size, channels.copy().pop()) for value in (gain, shift)]
    if len(channels) > 1 or rows[0] is None or rows[1] is None or not rows[0].all():
        return False
    padded = any(_is_padded(reader) for reader in output.outputs)
    if (rows[0] == 1).all() and (padded or not rows[1].any()):
        return False
    for reader in output.outputs:
        _absorb(editor, reader, rows[0], None if padded else rows[1])
    if padded and rows[1].any():
        ratio = (rows[1] / rows[0]).astype(np.float32).reshape(1, -1, *[1] * (size - 2))
        _become_add(editor, node, x, ratio)
    else:
        editor.bypass(owner, node, x)
    if scale is not None:
        editor.erase(owner, [scale])
    return True


def _ends_gelu(tensor: gs.Tensor) -> bool:
    """Whether a tensor is x * (1 + erf(x / sqrt 2)) or its tanh form, which times 0.5 is GELU."""
    product = producer(tensor, "Mul")
    sums = [] if product is None else [producer(operand, "Add") for operand in product.inputs]
    return any(total is not None and any(producer(term, "Erf", "Tanh") is not None for term in total.inputs)
               for total in sums)


def _feeds_convolutions(owner: gs.Graph, output: gs.Tensor) -> bool:
    return bool(output.outputs) and all(
        reader.op == "Conv" and not reader.domain and any(other is reader for other in owner.nodes)
        and [tensor is output for tensor in reader.inputs].count(True) == 1 and reader.inputs[0] is output
        and constant(reader.inputs[1]) is not None
        and (given(reader, 2) is None or constant(reader.inputs[2]) is not None)
        for reader in output.outputs)


def _absorb(editor: Editor, conv: gs.Node, gain: Array, shift: Array | None) -> None:
    """Let a Conv take x instead of x * gain + shift; both () or (C_in,), float64."""
    weight = np.asarray(constant(conv.inputs[1]), np.float64)
    groups = conv.attrs.get("group", 1)
    dtype = conv.inputs[1].dtype
    split = weight.reshape(groups, -1, *weight.shape[1:])
    rows = [None if value is None else np.broadcast_to(value, (groups * weight.shape[1],)).reshape(groups, 1, -1)
            for value in (gain, shift)]
    if rows[1] is not None and rows[1].any():
        moved = (split.reshape(*split.shape[:3], -1).sum(axis=3) * rows[1]).sum(axis=2).reshape(-1)
        bias = given(conv, 2)
        old = np.float64(0) if bias is None else np.asarray(constant(bias), np.float64).reshape(-1)
        conv.inputs = [*conv.inputs[:2], editor.constant(f"{conv.outputs[0].name}_bias", (old + moved).astype(dtype))]
    assert rows[0] is not None
    scaled = (split * rows[0].reshape(*rows[0].shape, *[1] * (weight.ndim - 2))).reshape(weight.shape).astype(dtype)
    conv.inputs[1] = editor.constant(f"{conv.inputs[1].name}_scaled", scaled)


def _become_add(editor: Editor, node: gs.Node, x: gs.Tensor, shift: Array) -> None:
    node.op, node.attrs = "Add", {}
    value = shift.reshape(1) if shift.size == 1 else shift
    node.inputs = [x, editor.constant(f"{node.outputs[0].name}_shift", value)]


def _affine(node: gs.Node) -> _Affine | None:
    """Return what a Mul, Div, Add or Sub with one constant float operand does to the other, or None."""
    if node.op not in _FORMS or node.domain:
        return None
    for position in (0, 1):
        value, x = constant(node.inputs[position]), node.inputs[1 - position]
        if value is None or isinstance(x, gs.Constant) or value.dtype != np.float32:
            continue
        number = value.astype(np.float64)
        if node.op == "Div" and (position == 0 or not number.all()):
            return None
        gain, shift = _FORMS[node.op](number, position)
        return x, np.asarray(gain, np.float64), np.asarray(shift, np.float64)
    return None


_FORMS: dict[str, Callable[[Array, int], tuple[Array | float, Array | float]]] = {
    "Mul": lambda value, position: (value, 0.0),
    "Div": lambda value, position: (1 / value, 0.0),
    "Add": lambda value, position: (1.0, value),
    "Sub": lambda value, position: (1.0, -value) if position else (-1.0, value),
}


def _along_channels(value: Array, rank: int, channels: int) -> Array | None:
    """Return a broadcast operand as () or (C,) along axis 1 of a tensor of that rank; None where it is another."""
    if value.ndim > rank:
        return None
    if value.size == 1:
        return value.reshape(())
    shape = (1,) * (rank - value.ndim) + value.shape
    fits = shape[1] == channels and all(size == 1 for axis, size in enumerate(shape) if axis != 1)
    return value.reshape(-1) if fits else None


def _channels_out(host: gs.Node, weight: Array) -> int:
    if host.op == "ConvTranspose":
        return int(weight.shape[1] * host.attrs.get("group", 1))
    if host.op == "Gemm":
        return int(weight.shape[0 if host.attrs.get("transB", 0) else 1])
    return int(weight.shape[0])


def _is_padded(conv: gs.Node) -> bool:
    return any(conv.attrs.get("pads", ())) or conv.attrs.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID")


FOLD_AFFINE = Pass("fold-affine", "Fold constant Mul, Div, Add and Sub into the convolution or Gemm beside them",
                   for_each(("Mul", "Div", "Add", "Sub"), _after_host, _before_conv))
