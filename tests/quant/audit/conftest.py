"""A small network quantized by ONNX Runtime's own quantizer in each of its forms, and one Conv quantized by hand."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)

from trtkit.graph import infer_shapes, run_model

Quantized = Callable[[str], onnx.ModelProto]

SYMMETRIC = {"ActivationSymmetric": True, "QuantizeBias": False, "AddQDQPairToWeight": True}
FORMS: dict[str, dict[str, Any]] = {
    "uint8": {"activation_type": QuantType.QUInt8, "per_channel": True},
    "uint8 weights": {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QUInt8},
    "int8": {"activation_type": QuantType.QInt8},
    "symmetric": {"activation_type": QuantType.QInt8, "per_channel": True, "extra_options": SYMMETRIC},
    "own pairs": {"activation_type": QuantType.QUInt8, "extra_options": {"DedicatedQDQPair": True}},
    "qoperator": {"activation_type": QuantType.QUInt8, "per_channel": True, "quant_format": QuantFormat.QOperator},
}

TEXT = """<ir_version: 8, opset_import: ["" : 17]> g (float[1,3,8,8] x) => (float[1,10] y) {
    zero = Constant<value_float: float = 0.0>() six = Constant<value_float: float = 6.0>()
    a = Conv<pads=[1,1,1,1]>(x, w1, b1)
    ac = Clip(a, zero, six)
    b = Conv<pads=[1,1,1,1]>(ac, w2, b2)
    s = Add(b, ac)
    r = Relu(s)
    p = MaxPool<kernel_shape=[2,2], strides=[2,2]>(r)
    d = Conv(p, w3, b3)
    k = Concat<axis=1>(d, p)
    e = Conv(k, w4, b4)
    q = GlobalAveragePool(e)
    f = Flatten(q)
    y = Gemm(f, w5, b5) }"""


class _Noise(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self) -> None:
        self.left = iter(noise(16))

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.left, None)


def noise(count: int, seed: int = 0) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    return [{"x": rng.standard_normal((1, 3, 8, 8)).astype(np.float32)} for _ in range(count)]


@pytest.fixture
def answers() -> Callable[[onnx.ModelProto], np.ndarray]:
    """Return a function: model -> what it gives, as it is written, for data that no calibration saw."""
    def run(model: onnx.ModelProto) -> np.ndarray:
        return np.concatenate([run_model(model, feeds, ["y"], optimize=False)["y"] for feeds in noise(8, seed=1)])

    return run


@pytest.fixture(scope="session")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The FP32 network: Conv + ReLU6, a residual block, pooling, Concat and Gemm."""
    rng = np.random.default_rng(0)
    shapes = {"w1": (16, 3, 3, 3), "b1": (16,), "w2": (16, 16, 3, 3), "b2": (16,), "w3": (16, 16, 1, 1), "b3": (16,),
              "w4": (32, 32, 1, 1), "b4": (32,), "w5": (32, 10), "b5": (10,)}
    model = onnx.parser.parse_model(TEXT)
    for name, shape in shapes.items():
        spread = 2 / np.sqrt(np.prod(shape[1:]) if len(shape) == 4 else 16)
        channels = np.linspace(0.5, 1.5, shape[0]).reshape(-1, *[1] * (len(shape) - 1))
        value = rng.standard_normal(shape) * spread * channels
        model.graph.initializer.append(numpy_helper.from_array(value.astype(np.float32), name))
    for number, node in enumerate(model.graph.node):
        node.name = f"{node.op_type}_{number}"
    path = tmp_path_factory.mktemp("network") / "fp32.onnx"
    path.write_bytes(infer_shapes(model).SerializeToString())
    return path


@pytest.fixture(scope="session")
def quantized(network: Path) -> Quantized:
    """Return a function: form, or "dynamic" -> the network as ONNX Runtime's quantizer writes it."""
    made: dict[str, onnx.ModelProto] = {}

    def get(form: str) -> onnx.ModelProto:
        if form not in made:
            path = network.with_name(f"{form.replace(' ', '_')}.onnx")
            logging.disable(logging.WARNING)  # the quantizer advises to preprocess the model
            if form == "dynamic":
                quantize_dynamic(str(network), str(path))
            else:
                quantize_static(str(network), str(path), _Noise(), **FORMS[form])
            logging.disable(logging.NOTSET)
            made[form] = onnx.load(path)
        return made[form]

    return get


@pytest.fixture
def conv(make: Callable[..., onnx.ModelProto], rng: np.random.Generator) -> Callable[..., onnx.ModelProto]:
    """Return a function that makes a Conv + Relu quantized as TensorRT wants it, with changes to text and constants."""
    text = """g (float[1,16,8,8] x) => (float[1,16,8,8] y) {
        xq = QuantizeLinear(x, s, z)
        xd = DequantizeLinear(xq, s, z)
        wd = DequantizeLinear<axis=0>(w, ws, wz)
        c = Conv<pads=[1,1,1,1]>(xd, wd, b)
        y = Relu(c) }"""
    constants = {"s": np.float32(0.03), "z": np.int8(0), "w": rng.integers(-127, 128, (16, 16, 3, 3), np.int8),
                 "ws": np.full(16, 0.002, np.float32), "wz": np.zeros(16, np.int8), "b": np.ones(16, np.float32)}

    def build(*replaced: tuple[str, str], opset: int = 17, **changes: object) -> onnx.ModelProto:
        changed = text
        for old, new in replaced:
            assert old in changed
            changed = changed.replace(old, new)
        return make(changed, opset, **{**constants, **changes})

    return build
