"""Rules on what TensorRT refuses or reads as something else. Sources: NvInfer.h, IQuantizeLayer and IDequantizeLayer;
what TensorRT-RTX 1.7 was seen to do."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from trtkit.findings import Finding, Severity
from trtkit.graph.opset import model_opset
from trtkit.precision import Precision
from trtkit.quant.audit.qoperators import QOPERATORS
from trtkit.quant.audit.subject import Subject

__all__ = ["PACKED", "TENSORRT_REFUSES", "bad_scales", "old_opset"]

_DYNAMIC = ("DynamicQuantizeLinear", "ConvInteger", "MatMulInteger", "DynamicQuantizeMatMul", "MatMulIntegerToFloat",
            "DynamicQuantizeLSTM")
_TENSORRT_8_OPSET = 17
PACKED = ("MatMulNBits", "GatherBlockQuantized", "QAttention", "QMoE")
"""ONNX Runtime's operators that hold their quantized weights themselves."""

_CONVERT = "Convert the model: trtkit audit MODEL --target TARGET --fix -o FIXED"
_REQUANTIZE = "Quantize the FP32 model: trtkit calibrate, then trtkit quantize"


def dynamic_operators(subject: Subject) -> Iterator[Finding]:
    """Scales found at run time have no kernel."""
    names = [node.name for node in subject.index.nodes if node.op_type in _DYNAMIC]
    return subject.refuse("dynamic quantization", names, "Operators of dynamic quantization, which TensorRT "
                          "does not have: the model holds no ranges for its activations", _REQUANTIZE)


def integer_operators(subject: Subject) -> Iterator[Finding]:
    """QOperator format is ONNX Runtime's own."""
    names = [node.name for node in subject.index.nodes if node.op_type in QOPERATORS or node.op_type in PACKED
             or node.op_type.startswith("QLinear")]
    return subject.refuse("QOperator format", names, "Integer operators (QLinearConv, MatMulNBits and their kind), "
                          "which TensorRT does not have: it takes QuantizeLinear and DequantizeLinear", _CONVERT)


def integer_biases(subject: Subject) -> Iterator[Finding]:
    """DequantizeLinear of INT32 is refused: biases stay float."""
    names = [reader.name for node, step in subject.quantizers if step.dtype == "int32"
             for reader, _ in subject.index.readers.get(node.output[0], ())]
    return subject.refuse("INT32 bias", names, "Layers have their bias as DequantizeLinear(INT32). ONNX "
                          "Runtime wants it so; TensorRT refuses it", _CONVERT)


def zero_points(subject: Subject) -> Iterator[Finding]:
    """Only symmetric grids exist."""
    names = [node.name for node, step in subject.quantizers if not step.symmetric and step.dtype != "int32"
             and step.zero_point is not None]
    return subject.refuse("zero point", names, "Q/DQ nodes have a zero point that is not 0; TensorRT quantizes "
                          "symmetrically", _CONVERT)


def unsigned(subject: Subject) -> Iterator[Finding]:
    """UINT8 with zero point 0 is silently read as INT8 (TensorRT-RTX 1.7: a warning in the log at most)."""
    names = [node.name for node, step in subject.quantizers if step.dtype == "uint8" and step.explicit]
    yield from subject.refuse("UINT8", names, "Q/DQ nodes are UINT8. TensorRT reads the type as INT8 or "
                              "refuses it: values above half of the range saturate", _CONVERT)
    names = [node.name for node, step in subject.quantizers if step.dtype == "uint8" and not step.explicit]
    yield from subject.refuse("no zero point", names, "Q/DQ nodes have no zero point: ONNX means UINT8 then, "
                              "TensorRT means INT8", _CONVERT)


def missing_zero_point(subject: Subject) -> Iterator[Finding]:
    """TensorRT 8 insists on the third input."""
    if subject.target.tensorrt.split(".")[0] == "8":
        names = [node.name for node, step in subject.quantizers if not step.explicit and step.dtype != "uint8"]
        yield from subject.refuse("no zero point", names, "Q/DQ nodes have no zero point, which TensorRT 8 "
                                  "demands", _CONVERT)


def bad_scales(subject: Subject) -> Iterator[Finding]:
    """Scales are positive and finite."""
    names = [node.name for node, step in subject.quantizers
             if step.scale is not None and not (np.isfinite(step.scale).all() and (step.scale > 0).all())]
    return subject.refuse("bad scale", names, "Q/DQ nodes have a scale that is zero, negative or not finite: a "
                          "tensor that calibration never saw, or saw all zero", _REQUANTIZE)


def old_opset(subject: Subject) -> Iterator[Finding]:
    """Each form of Q/DQ came with an opset; ONNX Runtime checks, TensorRT reads on."""
    has = model_opset(subject.model)
    for needed, what, names in (
            (13, "a scale a channel", [n.name for n, s in subject.quantizers if s.scale is not None and s.scale.ndim]),
            (19, "scales of float16 or bfloat16", [n.name for n, s in subject.quantizers
                                                   if s.float_type in ("float16", "bfloat16")]),
            (19, "FP8", [n.name for n, s in subject.quantizers if s.dtype.startswith("float8")]),
            (21, "INT4 or blocked scales", [n.name for n, s in subject.quantizers
                                            if s.block or s.dtype in ("int4", "uint4")])):
        if has < needed:
            find = subject.warn if subject.target.is_tensorrt else subject.refuse
            yield from find("opset", names, f"Q/DQ nodes have {what}, which ONNX knows from opset {needed} "
                            f"on; the model says {has}", f"Export at opset {needed}, or trtkit audit --fix")


def new_opset(subject: Subject) -> Iterator[Finding]:
    """The ONNX parser of TensorRT 8 ends at opset 17."""
    has = model_opset(subject.model)
    if subject.target.tensorrt.split(".")[0] == "8" and has > _TENSORRT_8_OPSET:
        yield Finding(Severity.ERROR, (), f"The model is of opset {has}; TensorRT {subject.target.tensorrt} reads up "
                      f"to {_TENSORRT_8_OPSET}", f"Export it at opset {_TENSORRT_8_OPSET}", 1.0, "opset")


def precisions(subject: Subject) -> Iterator[Finding]:
    """FP8, INT4 and BF16 need a GPU that has them."""
    for precision, names in (
            (Precision.FP8, [n.name for n, s in subject.quantizers if s.dtype.startswith("float8")]),
            (Precision.INT4, [n.name for n, s in subject.quantizers if s.dtype in ("int4", "uint4")]),
            (Precision.BF16, [n.name for n, s in subject.quantizers if s.float_type == "bfloat16"])):
        if precision not in subject.target.precisions:
            yield from subject.refuse("precision", names, f"Q/DQ nodes are {precision.value.upper()}, which "
                                      f"target '{subject.target.name}' does not have", "Use INT8: trtkit quantize")


def accelerator(subject: Subject) -> Iterator[Finding]:
    """DLA has no explicit quantization."""
    if subject.target.device == "dla":
        yield from subject.refuse("DLA", [node.name for node, _ in subject.quantizers], "Q/DQ nodes; DLA takes "
                                  "none and reads its scales from a calibration cache",
                                  f"Quantize the FP32 model: trtkit quantize --target {subject.target.name}")


TENSORRT_REFUSES = (dynamic_operators, integer_operators, integer_biases, zero_points, unsigned, missing_zero_point,
                    bad_scales, old_opset, new_opset, precisions, accelerator)
