"""Rules for ONNX Runtime on CPUs: which layers did become integer kernels, and which integer kernels are slow."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx

from trtkit.findings import Finding, Severity
from trtkit.quant.audit.refused import bad_scales, old_opset
from trtkit.quant.audit.subject import Form, Layer, Subject
from trtkit.quant.audit.unfused import float_stored
from trtkit.quant.placement import get_placement
from trtkit.runtime.ort import AS_WRITTEN

__all__ = ["ONNXRUNTIME"]

_CONVERT = "Convert the model: trtkit audit MODEL --target TARGET --fix -o FIXED"
_QUANTIZE = "Quantize the FP32 model for this target: trtkit quantize"


def refused(subject: Subject) -> Iterator[Finding]:
    """It does not load."""
    if subject.kernels is not None and subject.kernels.refusal:
        yield Finding(Severity.ERROR, (), f"ONNX Runtime does not load it: {subject.kernels.refusal}",
                      "Export at a newer opset, or convert it: trtkit audit --fix", 1.0, "refused")


def float_kernels(subject: Subject) -> Iterator[Finding]:
    """Layers that the optimized graph does not compute in integers, by what keeps them from it."""
    if subject.kernels is None or subject.kernels.refusal or not (subject.quantizers or subject.lifted.integer_ops):
        return
    by_reason: dict[str, list[str]] = {}
    for layer in subject.layers:
        if not layer.in_integers:
            by_reason.setdefault(_reason(subject, layer), []).append(layer.name)
    for reason, names in by_reason.items():
        yield from subject.warn("float kernels", names, f"Layers run in float: {reason}; they have "
                                f"{subject.share(names):.1%} of the multiply-accumulates",
                                _QUANTIZE if reason in (_PLAIN, _HALF_PLAIN) else _CONVERT)


_PLAIN = "they are not quantized"
_HALF_PLAIN = "their input is quantized and their weights are not"


def _reason(subject: Subject, layer: Layer) -> str:
    if layer.form is Form.FLOAT:
        return _PLAIN
    if layer.form is Form.WEIGHTS:
        return "their weights are quantized and their input is not"
    if layer.form is Form.INPUT:
        return _HALF_PLAIN
    if any(entry.key == AS_WRITTEN for entry in subject.model.metadata_props):
        return "the model was lowered for TensorRT, and is run as written"
    if layer.node.op_type == "ConvTranspose":
        return "ONNX Runtime has no integer kernel for ConvTranspose"
    if layer.node.op_type == "Conv" and not _output_quantized(subject, layer):
        return "their output is not quantized, so no QLinearConv"
    data, step = subject.step(layer.node, 0), subject.step(layer.node, 1)
    if data is not None and data.dtype == "int8" and subject.target.arch == "x86_64":
        return "their activations are INT8, which is fused on Arm alone"
    if len(layer.node.input) > 2 and layer.node.input[2] not in subject.floats.initializers:
        return "their bias is computed"
    if step is not None and not step.is_8bit:
        return f"their weights are {step.dtype.upper()}"
    return "ONNX Runtime did not fuse them"


def _output_quantized(subject: Subject, layer: Layer) -> bool:
    output = layer.node.output[0]
    reader = subject.floats.activation_after(layer.node, ("Relu", "Clip"))
    return any(name in subject.lifted.writes for name in (output, *(reader.output[:1] if reader is not None else ())))


def leftovers(subject: Subject) -> Iterator[Finding]:
    """Q and DQ that run as kernels of their own."""
    kernels = subject.kernels
    if kernels is not None:
        yield from subject.warn("unfused Q/DQ", kernels.boundary, "QuantizeLinear and DequantizeLinear nodes inside "
                                "the graph run by themselves, at borders between integers and float: each reads and "
                                "writes the tensor once more", "Fewer borders: quantize what lies between them, or "
                                "keep short integer stretches in float; --fix removes pairs that do nothing")


def dynamic_convolutions(subject: Subject) -> Iterator[Finding]:
    """ConvInteger has no fast kernel: ResNet-50 by quantize_dynamic took 5.6 times the FP32 model's time on x86."""
    names = [node.name for node in subject.index.nodes if node.op_type == "ConvInteger"]
    return subject.warn("dynamic convolutions", names, "Convolutions are quantized dynamically (ConvInteger), "
                        "which is several times slower than FP32", "Quantize convolutions statically (trtkit quantize)"
                        ", or make them float: trtkit audit MODEL --target TARGET --fix -o FIXED")


def signed_activations(subject: Subject) -> Iterator[Finding]:
    """INT8 x INT8 has no fast kernel on x86: ResNet-50 ran slower than in FP32."""
    if subject.target.arch != "x86_64":
        return
    names = [layer.name for layer in subject.layers if (step := subject.step(layer.node, 0)) is not None
             and step.dtype == "int8"]
    yield from subject.warn("INT8 activations", names, "Layers read INT8 activations. x86 CPUs multiply UINT8 "
                            "by INT8; with INT8 on both sides a network can be slower than in FP32", _CONVERT)


def wide_weights(subject: Subject) -> Iterator[Finding]:
    """Without VNNI, sums of two products saturate at 16 bits: weights must stay within 7 bits."""
    largest = get_placement(subject.target.placement).weight_max
    if largest >= 127:
        return
    names = []
    for layer in subject.layers:
        step, value = subject.step(layer.node, 1), subject.floats.constant(layer.node.input[1])
        if step is not None and step.is_8bit and value is not None and step.zero_point is not None and (
                np.abs(step.quantize(value).astype(np.int64)).max() > largest + 1):
            names.append(layer.name)
    yield from subject.refuse("8-bit weights", names, "Layers have weights beyond 7 bits: without VNNI the CPU "
                              "adds two products in 16 bits, which saturate, and results are wrong", _CONVERT)


def half(subject: Subject) -> Iterator[Finding]:
    """CPUs compute FP16 as FP32 with casts."""
    names = [node.name for node in subject.index.nodes if any(
        (tensor := subject.index.initializers.get(name)) is not None
        and tensor.data_type == onnx.TensorProto.FLOAT16 for name in node.input)]
    return subject.warn("FP16", names, "Nodes have FP16 constants; ONNX Runtime casts them to FP32 and back on "
                        "CPUs", "Give it the FP32 model, or quantize that for this target")


ONNXRUNTIME = (refused, bad_scales, old_opset, float_kernels, leftovers, dynamic_convolutions, signed_activations,
               wide_weights, half, float_stored)
