"""E4M3 codes are those of ONNX's own reference tables."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from trtkit.graph import run_model
from trtkit.quant.scales.fp8 import LARGEST, encode_e4m3


def decode(codes: np.ndarray) -> np.ndarray:
    """Return what ONNX Runtime makes of the codes."""
    model = onnx.parser.parse_model('<ir_version: 9, opset_import: ["" : 19]> g (float one) => (float[n] y) '
                                    "{ d = DequantizeLinear(codes, scale)\n y = Mul(d, one) }")
    model.graph.initializer.append(onnx.TensorProto(name="codes", data_type=onnx.TensorProto.FLOAT8E4M3FN,
                                                    dims=codes.shape, raw_data=codes.tobytes()))
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(1), "scale"))
    return run_model(model, {"one": np.array(1, np.float32)})["y"]


def test_every_code_encodes_to_itself() -> None:
    codes = np.array([code for code in range(256) if code & 0x7F != 0x7F], np.uint8)
    np.testing.assert_array_equal(encode_e4m3(decode(codes)), codes)


@pytest.mark.parametrize(("value", "expected"), [
    pytest.param(1.0625, 1.0, id="tie-to-even-below"),
    pytest.param(1.1875, 1.25, id="tie-to-even-above"),
    pytest.param(1.07, 1.125, id="nearest"),
    pytest.param(-1000.0, -LARGEST, id="saturated"),
    pytest.param(2.0**-10, 0.0, id="smallest-tie"),
    pytest.param(1.2e-3, 2.0**-9, id="subnormal"),
])
def test_values_go_to_the_nearest_code(value: float, expected: float) -> None:
    assert decode(encode_e4m3(np.array([value], np.float32)))[0] == expected


def test_error_is_below_a_sixteenth_of_normal_values(rng: np.random.Generator) -> None:
    values = (rng.normal(size=2000) * 40).astype(np.float32)
    values = values[(np.abs(values) > 2.0**-6) & (np.abs(values) < LARGEST)]
    assert (np.abs(decode(encode_e4m3(values)) - values) <= np.abs(values) / 16).all()
