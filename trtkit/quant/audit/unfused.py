"""Rules on what TensorRT takes and runs slower than it could: Q/DQ that no kernel absorbs.

Source: TensorRT developer guide, explicit quantization, Q/DQ placement recommendations and limitations.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import combinations
from math import prod
from typing import Any

import onnx

from trtkit.findings import Finding
from trtkit.quant.audit.subject import Form, Subject
from trtkit.quant.budget.macs import WEIGHTED_OPS
from trtkit.quant.index import attribute, node_name
from trtkit.quant.placement import get_placement, is_depthwise, weight_axis

__all__ = ["TENSORRT_SLOWS", "float_layers", "float_stored", "half_quantized", "shared_scales"]

_MOVES = frozenset({"MaxPool", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Slice", "Split", "Gather",
                    "Pad", "Expand", "Tile", "Identity"})
_POOLS = frozenset({"AveragePool", "GlobalAveragePool", "ReduceMean", "Resize"})
_ACTIVATIONS = frozenset({"Relu", "Clip", "LeakyRelu", "PRelu"})
_INTEGER = frozenset({*WEIGHTED_OPS, *_MOVES, *_POOLS, "Add", "Concat", "Einsum"})
_LANES = 16
_CONVERT = "Convert the model: trtkit audit MODEL --target TARGET --fix -o FIXED"


def half_quantized(subject: Subject) -> Iterator[Finding]:
    """A layer runs in INT8 when its input and its weights are quantized."""
    for form, has, lacks in ((Form.WEIGHTS, "weights", "input"), (Form.INPUT, "input", "weights")):
        names = [layer.name for layer in subject.layers if layer.form is form and not layer.in_integers
                 and not _weight_only(subject, layer.node)]
        yield from subject.warn("half quantized", names, f"Layers have quantized {has} and float {lacks}: "
                                "they run in floating point", "Quantize both, or neither: trtkit quantize")


def _weight_only(subject: Subject, node: Any) -> bool:
    """INT4 and blocked weights are meant to stand alone."""
    step = subject.step(node, 1)
    return step is not None and (bool(step.block) or step.dtype in ("int4", "uint4"))


def float_layers(subject: Subject) -> Iterator[Finding]:
    """Layers left in floating point between quantized ones."""
    if not any(layer.in_integers for layer in subject.layers):
        return
    narrow = get_placement(subject.target.placement).narrowest_depthwise
    names = [layer.name for layer in subject.layers if layer.form is Form.FLOAT
             and not (is_depthwise(subject.floats, layer.node) and attribute(layer.node, "group", 1) < narrow)]
    yield from subject.warn("float layers", names, "Layers are not quantized, with "
                            f"{subject.share(names):.1%} of the multiply-accumulates",
                            "If that is not for accuracy: trtkit quantize the FP32 model without keeping them; "
                            "trtkit sensitivity tells what each one costs")


def wrong_axis(subject: Subject) -> Iterator[Finding]:
    """Scales a channel must lie along the output channels."""
    names = []
    for layer in subject.layers:
        step, weight = subject.step(layer.node, 1), subject.floats.initializers.get(layer.node.input[1])
        if step is None or step.axis is None or weight is None or step.scale is None or step.block:
            continue
        wanted = weight_axis(layer.node, 1, len(weight.dims))
        if wanted is not None and step.axis % len(weight.dims) != wanted:
            names.append(layer.name)
    return subject.warn("weight axis", names, "Layers have weight scales along another axis than the output "
                        "channels: TensorRT does not fuse them", _CONVERT)


def channel_activations(subject: Subject) -> Iterator[Finding]:
    """Activations have one scale."""
    names = [node.name for node, step in subject.quantizers if step.scale is not None and step.scale.ndim
             and not step.block and node.op_type == "QuantizeLinear" and subject.index.constant(node.input[0]) is None]
    return subject.warn("activation scales", names, "Activations have a scale a channel; TensorRT has INT8 "
                        "kernels for one scale a tensor", _CONVERT)


def early_q(subject: Subject) -> Iterator[Finding]:
    """A Q between a layer and its activation or residual Add splits a kernel in two."""
    names = []
    for layer in subject.layers:
        output = layer.node.output[0]
        reader = subject.floats.only_reader(output) if output in subject.lifted.writes else None
        if layer.in_integers and reader is not None and (
                reader.op_type in (*_ACTIVATIONS, "BatchNormalization") or _has_no_raw_branch(subject, reader)):
            names.append(layer.name)
    return subject.warn("early Q", names, "Layers are quantized before the activation or the Add that follows: "
                        "it runs as a kernel of its own", _CONVERT)


def _has_no_raw_branch(subject: Subject, node: Any) -> bool:
    """Whether an Add reads both sides through a grid: one of two Convs must come as it is, to be fused."""
    return node.op_type == "Add" and all(subject.step(node, position) is not None for position in (0, 1))


def residual_adds(subject: Subject) -> Iterator[Finding]:
    """Conv + Add fuse when the skip branch is quantized."""
    integer = {layer.node.output[0]: layer.name for layer in subject.layers if layer.in_integers}
    names, writers = [], []
    for node in subject.floats.nodes:
        if node.op_type != "Add" or any(name in subject.floats.initializers for name in node.input):
            continue
        fused = [integer[name] for name in node.input
                 if name in integer and subject.floats.only_reader(name) is node]
        if fused and all(subject.step(node, position) is None for position in (0, 1)):
            names.append(node_name(node))
            writers += fused
    return subject.warn("residual Add", names, "Residual Adds read a skip branch in float: Conv + Add do not "
                        "fuse, and the Conv writes FP32", _CONVERT, layers=writers)


def shared_scales(subject: Subject) -> Iterator[Finding]:
    """What copies values is free when both sides have one scale."""
    for op_types, rule in ((("Concat",), "Concat scales"), (_MOVES, "scales around copies")):
        names = [node_name(node) for node in subject.floats.nodes
                 if node.op_type in op_types and _scales_differ(subject, node)]
        yield from subject.warn(rule, names, "Operators that copy values have different scales on their sides: "
                                "each costs a requantization", _CONVERT)


def _scales_differ(subject: Subject, node: Any) -> bool:
    steps = [step for position in range(len(node.input)) if (step := subject.step(node, position)) is not None]
    if steps:
        steps += subject.lifted.writes.get(node.output[0], [])
    return any(not one.close_to(other) for one, other in combinations(steps, 2))


def idle_pairs(subject: Subject) -> Iterator[Finding]:
    """Q/DQ pairs whose readers compute in float anyway."""
    idle, readers_seen = [], Counter[str]()
    for tensor in subject.lifted.writes:
        readers = [node for node, position in subject.floats.readers.get(tensor, ())
                   if subject.step(node, position) is not None]
        others = {node.op_type for node in readers}
        ends = tensor in subject.floats.outputs
        if (readers and not others & _INTEGER) or (ends and not readers):
            idle.append(tensor)
            readers_seen.update(others or {"the output"})
    return subject.warn("idle Q/DQ", idle, "Tensors are quantized for nothing: what reads them "
                        f"({', '.join(sorted(readers_seen))}) computes in float. Each pair costs accuracy and up to "
                        "two kernels", _CONVERT)


def reformats(subject: Subject) -> Iterator[Finding]:
    """Float operators between integer layers: the data go to float and back."""
    fused = _INTEGER | _ACTIVATIONS | {"Cast"}
    found = [node for node in subject.floats.nodes if node.op_type not in fused
             and any(name in subject.lifted.writes for name in node.output)
             and any(name not in subject.floats.initializers for name in node.input)]
    kinds = ", ".join(f"{count} {op}" for op, count in Counter(node.op_type for node in found).most_common(4))
    return subject.warn("reformats", map(node_name, found), f"Float operators ({kinds}) stand before a Q: "
                        "expect a reformat to float and back at each", "Keep the layers around them in FP16 (int8+fp16)"
                        ", or replace them by what INT8 kernels fuse, such as Relu")


def narrow_layers(subject: Subject) -> Iterator[Finding]:
    """INT8 kernels work on blocks of channels; what is narrower is padded."""
    names = []
    for layer in subject.layers:
        weight = subject.floats.initializers.get(layer.node.input[1])
        if not layer.in_integers or weight is None:
            continue
        dims, groups = list(weight.dims), attribute(layer.node, "group", 1)
        if layer.node.op_type == "Conv":
            depth, width = prod(dims[1:]) if groups == 1 else dims[0], dims[0]
        elif layer.node.op_type == "ConvTranspose":
            depth, width = dims[0], dims[1] * groups
        else:
            depth, width = min(dims[-2:]), max(dims[-2:])
        if min(depth, width) < _LANES:
            names.append(layer.name)
    return subject.warn("narrow layers", names, f"Quantized layers have fewer than {_LANES} channels or sum "
                        f"over fewer than {_LANES} values: integer kernels pad them, FP16 is about as fast",
                        "Keep them in float: trtkit quantize --keep NAME")


def half_islands(subject: Subject) -> Iterator[Finding]:
    """FP32 layers of an FP16 model."""
    types = {layer.name: _weight_type(subject, layer.node) for layer in subject.layers}
    if onnx.TensorProto.FLOAT16 not in types.values():
        return
    names = [layer.name for layer in subject.layers if types[layer.name] == onnx.TensorProto.FLOAT
             and layer.form is Form.FLOAT]
    yield from subject.warn("FP32 islands", names, "Layers of this FP16 model are in FP32, with "
                            f"{subject.share(names):.1%} of the multiply-accumulates, and Casts around them",
                            "If that is not for accuracy: trtkit quantize --precision fp16 on the FP32 model")


def _weight_type(subject: Subject, node: Any) -> int:
    tensor = subject.floats.initializers.get(node.input[1])
    return 0 if tensor is None else int(tensor.data_type)


def float_stored(subject: Subject) -> Iterator[Finding]:
    """Q -> DQ on float weights: right, and four times the file."""
    sizes = {name: 3 * prod(subject.index.initializers[name].dims) for name in subject.lifted.float_stored}
    return subject.warn("float weights", sizes, "Weights are stored as float and quantized when the model is "
                        f"loaded: {sum(sizes.values()) / 1e6:.1f} MB more than needed", _CONVERT)


TENSORRT_SLOWS = (half_quantized, float_layers, wrong_axis, channel_activations, early_q, residual_adds, shared_scales,
                  idle_pairs, reformats, narrow_layers, half_islands, float_stored)
