from __future__ import annotations

import re

import pytest

from trtkit.build.hints import HINTS, hint_for

SAID = {
    "bias": ("DequantizeLinear INVALID_NODE: input has type Int32 but must have type FP8, FP4, Int4, Int8, or UInt8",
             "bias is quantized"),
    "zero point": ("Non-zero zero point is not supported", "symmetric"),
    "uint8": ("Quantization to UINT8 is not supported", "INT8, not to UINT8"),
    "scale": ("Scale coefficients must all be positive", "constant during calibration"),
    "integer form": ("ConvInteger UNSUPPORTED_NODE false", "ONNX Runtime's integer form"),
    "nms": ("NonMaxSuppression UNSUPPORTED_NODE false", "no kernel for it"),
    "turing": ("Cannot compile operation 'fc' for Turing (SM75): FP32 GEMM is not supported", "FP16 first"),
    "fp8": ("model contains HW-specific datatypes: fp8_e4m3", "SM 8.9"),
    "bf16": ("model contains HW-specific datatypes: b16", "FP16 on Turing"),
    "profile": ("Network has dynamic or shape inputs, but no optimization profile has been defined", "--batch"),
    "mixed": ("ElementWise SUM must have same input types. But they are of types Half and Float.", "writes the casts"),
    "external": ("Failed to open file: m.data", "beside the model"),
    "no model": ("MODEL_DESERIALIZE_FAILED: Failed to parse the ONNX model", "no ONNX model"),
    "plugin": ('creator && "Plugin not found, are the plugin name, version, and namespace correct?"', "--plugin"),
    "runners": ("Assertion !layerImpls.empty() failed. node_of_y_0 has no runners that implement it", "no kernel for "
                                                                                                      "it"),
    "type": ("UNSUPPORTED_NODE: Failed to convert ONNX date type to TensorRT data type.", "strings"),
    "dangling": ("INVALID_GRAPH: Node input was not registered.", "not whole"),
    "operator": ("Det UNSUPPORTED_NODE false", "does not have this operator"),
    "workspace": ("no tactics to implement the operation within workspace limit", "workspace"),
    "lean": ("Unable to load library: libnvinfer_lean.so.1", "lean runtime"),
    "gpu": ("graph_jit.cpp:278: CHECK(status == CUDA_SUCCESS) failed", "needs a GPU"),
    "memory": ("[defaultAllocator.cpp] Error Code 1: Cuda Runtime (out of memory)", "Memory ran out"),
}
"""TensorRT's own words, as seen or documented, and what the advice must say."""


@pytest.mark.parametrize(("said", "advice"), SAID.values(), ids=SAID)
def test_hint_fits_what_tensorrt_says(said: str, advice: str) -> None:
    assert advice in hint_for(said, rtx=True)


def test_every_hint_is_shown_by_an_example() -> None:
    unused = [hint.pattern for hint in HINTS
              if not any(re.search(hint.pattern, said, re.IGNORECASE | re.DOTALL) for said, _ in SAID.values())]
    assert unused == []


def test_no_hint_when_nothing_is_known() -> None:
    assert hint_for("the moon is full", rtx=True) == ""


def test_hint_for_rtx_is_not_given_to_tensorrt() -> None:
    assert "no kernel" in hint_for("NonZero UNSUPPORTED_NODE", rtx=True)
    assert "no kernel" not in hint_for("NonZero UNSUPPORTED_NODE", rtx=False)


def test_every_hint_says_what_to_do_in_whole_sentences() -> None:
    assert all(hint.advice.endswith(".") and len(hint.advice) > 30 for hint in HINTS)
