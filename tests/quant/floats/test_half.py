"""FP16 and BF16: rounding to the bit, and which operators have them."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from trtkit.quant.floats.half import BF16, FP16, HalfFormat

VALUES = np.array([0.0, -0.0, 1.0, 1.00390625, 1.01171875, -3.14159, 65504.0, 1e-6, 6e-8, 1e-41, -2.5e38], np.float32)


@pytest.mark.parametrize("half", [FP16, BF16], ids=lambda each: each.name)
def test_tensor_holds_what_rounded_says(half: HalfFormat) -> None:
    values = VALUES[np.abs(VALUES) <= half.largest].reshape(1, -1)
    tensor = half.tensor("t", values)
    assert (tensor.name, list(tensor.dims), tensor.data_type) == ("t", list(values.shape), half.code)
    np.testing.assert_array_equal(numpy_helper.to_array(tensor).astype(np.float32), half.rounded(values))


def test_bf16_rounds_to_nearest_even() -> None:
    np.testing.assert_array_equal(BF16.rounded(VALUES[2:5]), np.array([1.0, 1.0, 1.015625], np.float32))
    assert BF16.rounded(np.float32(3.4e38)) == np.inf
    assert np.isnan(BF16.rounded(np.array([np.nan], np.float32))).all()


def test_fp16_overflows_to_infinity() -> None:
    assert FP16.rounded(np.array([7e4], np.float32)) == np.inf


@pytest.mark.parametrize(("op", "opset", "half", "exempt", "defined"), [
    pytest.param("Conv", 17, FP16, (), True, id="fp16"),
    pytest.param("Conv", 17, BF16, (), False, id="bf16-too-old"),
    pytest.param("Conv", 22, BF16, (), True, id="bf16"),
    pytest.param("HardSwish", 22, BF16, (), False, id="refused-by-tensorrt"),
    pytest.param("HardSwish", 22, FP16, (), True, id="refused-in-bf16-alone"),
    pytest.param("Resize", 17, FP16, (1, 2), True, id="exempt"),
    pytest.param("Resize", 17, FP16, (), False, id="float32-input"),
    pytest.param("QuantizeLinear", 13, FP16, (), False, id="q-too-old"),
    pytest.param("DequantizeLinear", 13, FP16, (), False, id="dq-too-old"),
    pytest.param("DequantizeLinear", 19, FP16, (), True, id="dq"),
    pytest.param("Nonsense", 17, FP16, (), False, id="unknown"),
])
def test_operator_is_defined_on_a_format_when_onnx_and_tensorrt_have_it(op: str, opset: int, half: HalfFormat,
                                                                       exempt: tuple[int, ...], defined: bool) -> None:
    assert half.defines(onnx.helper.make_node(op, ["x"], ["y"]), opset, exempt) is defined


def test_operators_of_other_domains_are_not_defined() -> None:
    assert not FP16.defines(onnx.helper.make_node("Relu", ["x"], ["y"], domain="mine"), 17)
