"""What TensorRT says -> what to do about it: one row a known complaint."""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = ["HINTS", "Hint", "hint_for"]


@dataclass(frozen=True)
class Hint:
    """One known complaint.

    Attributes:
        pattern: Regular expression searched in the message, case ignored.
        advice: One or two sentences: the cause, and what to do.
        rtx_only: Whether it holds for TensorRT-RTX alone.
    """

    pattern: str
    advice: str
    rtx_only: bool = False


HINTS = (
    Hint(r"has type Int32 but must have type|Int32.*DequantizeLinear",
         "A bias is quantized to INT32; TensorRT wants it in floating point. Quantize with trtkit quantize, or with "
         "QuantizeBias=False in ONNX Runtime's quantizer."),
    Hint(r"non-?zero zero.?point|zero.?point.*(must be|not).*zero",
         "TensorRT takes symmetric quantization only (zero point 0). Quantize with trtkit quantize for a TensorRT "
         "target."),
    Hint(r"\bUINT8\b.*(quant|not supported)|(quant\w*).*\bUINT8\b",
         "TensorRT quantizes to INT8, not to UINT8. Quantize with trtkit quantize for a TensorRT target."),
    Hint(r"scale coefficients must all be positive",
         "A scale is zero or negative: that tensor was constant during calibration. Audit the table: trtkit inspect "
         "TABLE."),
    Hint(r"\b(ConvInteger|MatMulInteger|DynamicQuantizeLinear|QLinearConv|QLinearMatMul)\b",
         "This is ONNX Runtime's integer form. Quantize the FP32 model with trtkit quantize, which writes Q/DQ nodes."),
    Hint(r"\bNonMaxSuppression\b|\bNonZero\b",
         "TensorRT-RTX has no kernel for it. Cut it off (trtkit rewrite, extract the subgraph before it) and do it "
         "on the CPU.", rtx_only=True),
    Hint(r"FP32 GEMM is not supported",
         "TensorRT-RTX has no FP32 matrix product on SM 7.5 (Turing). Lower the model to FP16 first: trtkit quantize "
         "--precision fp16."),
    Hint(r"fp8_e4m3|\bFP8\b.*(not supported|unsupported)",
         "FP8 needs SM 8.9 or later, so no Ampere and no Orin. Use INT8 there."),
    Hint(r"bf16|bfloat16|datatypes: b16", "BF16 needs SM 8.0 or later. Use FP16 on Turing."),
    Hint(r"no optimization profile has been defined|optimization profile is (missing|required)",
         "The model has dynamic shapes. Give their range: --batch 1,4,8, or --min, --opt and --max name=1x3x224x224."),
    Hint(r"must have same input types|types? .*(Half and Float|Float and Half)",
         "FP32 and FP16 meet in one operator; strong typing wants equal types. Lower with trtkit quantize "
         "--precision fp16, which writes the casts."),
    Hint(r"external data|Failed to open file|convertOnnxWeights",
         "The weights lie in a file beside the model. Pass the model's path instead of its bytes, and keep that file "
         "in the same folder."),
    Hint(r"MODEL_DESERIALIZE_FAILED|failed to parse (the )?onnx|deserialize",
         "The file is no ONNX model, or it is cut off. Check it: trtkit inspect MODEL."),
    Hint(r"plugin not found|creator &&",
         "TensorRT has no such operator. Write it in terms of others (trtkit rewrite), or give its plugin library: "
         "--plugin LIB.so."),
    Hint(r"has no runners that implement it",
         "TensorRT knows this operator and has no kernel for it here, as TensorRT-RTX has none for NonMaxSuppression. "
         "Cut it off (trtkit rewrite, extract the subgraph before it) and do it on the CPU."),
    Hint(r"convert ONNX dat[ae] type",
         "An input or weight has a type that TensorRT does not have, such as strings or complex numbers. Cut that part "
         "off and do it on the CPU."),
    Hint(r"input was not registered|INVALID_GRAPH",
         "The graph is not whole: that node reads something that nothing makes. Export the model again."),
    Hint(r"UNSUPPORTED_NODE",
         "TensorRT does not have this operator. Write it in terms of others (trtkit rewrite), or cut it off and do it "
         "on the CPU."),
    Hint(r"no tactics|workspace limit|could not find any implementation",
         "No kernel fits. Raise or drop the workspace limit, and check that this GPU has the model's types."),
    Hint(r"libnvinfer_lean",
         "VERSION_COMPATIBLE needs the lean runtime library, which is not here. Build without that flag."),
    Hint(r"CUDA_SUCCESS|cudaError|no CUDA-capable device|CUDA initialization",
         "This needs a GPU, and none can be used here. Build on the machine that will run the plan."),
    Hint(r"out of memory|OutOfMemory|Cannot allocate memory",
         "Memory ran out. Lower the workspace limit, the largest profile shape or the optimization level."),
)
"""Rows from the most special to the most general."""


def hint_for(message: str, *, rtx: bool) -> str:
    """Return the advice of the first row that matches an error message; "" when none does.

    Args:
        message: TensorRT's words, with the operator and error code where there are some.
        rtx: Whether TensorRT-RTX said it.
    """
    rows = (hint for hint in HINTS if rtx or not hint.rtx_only)
    return next((hint.advice for hint in rows if re.search(hint.pattern, message, re.IGNORECASE | re.DOTALL)), "")
