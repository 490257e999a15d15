"""Tiny ONNX models, each of which shows one thing, and the options to build them fast."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

HEADER = '<ir_version: 8, opset_import: ["" : {opset}]>\n'


def _bytes(text: str, weights: dict[str, np.ndarray], opset: int) -> bytes:
    model = onnx.parser.parse_model(HEADER.format(opset=opset) + text)
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in weights.items())
    return model.SerializeToString()


def _conv_weights(dtype: str = "float32") -> np.ndarray:
    return np.random.default_rng(0).normal(size=(4, 3, 3, 3)).astype(dtype)


@pytest.fixture
def conv_model() -> Callable[..., bytes]:
    """Return a function: input shape as ONNX text, element type -> Conv + Relu as ONNX bytes."""

    def make(shape: str = "N,3,8,8", element: str = "float", nodes: str = "y = Relu(c)") -> bytes:
        out = shape.replace("3", "4", 1)
        text = f"g ({element}[{shape}] x) => ({element}[{out}] y) {{ c = Conv<pads=[1,1,1,1]>(x, w)\n{nodes} }}"
        return _bytes(text, {"w": _conv_weights("float16" if element == "float16" else "float32")}, 17)

    return make


@pytest.fixture
def qdq_model() -> Callable[..., bytes]:
    """Return a function -> Conv with Q/DQ on input and weights; zero point and bias type can be made wrong."""

    def make(zero_point: int = 0, int32_bias: bool = False) -> bytes:
        text = """g (float[N,3,8,8] x) => (float[N,4,8,8] y) {
            q = QuantizeLinear(x, xs, zp)
            d = DequantizeLinear(q, xs, zp)
            wd = DequantizeLinear<axis=0>(w, ws, wz)
            """ + ("bd = DequantizeLinear(b, bs)\n y = Conv<pads=[1,1,1,1]>(d, wd, bd) }" if int32_bias else
                   "y = Conv<pads=[1,1,1,1]>(d, wd) }")
        weights = {
            "xs": np.float32(0.02), "zp": np.int8(zero_point), "ws": np.full(4, 0.01, np.float32),
            "wz": np.zeros(4, np.int8), "w": (_conv_weights() * 40).round().clip(-127, 127).astype(np.int8),
        }
        if int32_bias:
            weights |= {"b": np.arange(4, dtype=np.int32), "bs": np.float32(0.0002)}
        return _bytes(text, {name: np.asarray(value) for name, value in weights.items()}, 17)

    return make


@pytest.fixture
def fp8_model() -> bytes:
    """Return a MatMul whose input goes through FP8 as ONNX bytes."""
    text = """g (float16[4,16] x) => (float16[4,16] y) {
        q = QuantizeLinear(x, s, z)
        d = DequantizeLinear(q, s, z)
        wd = DequantizeLinear(w, s, z)
        y = MatMul(d, wd) }"""
    model = onnx.load_from_string(_bytes(text, {"s": np.asarray(0.05, np.float16)}, 19))
    for name, dims in (("z", []), ("w", [16, 16])):
        raw = bytes(int(np.prod(dims, dtype=int)))
        model.graph.initializer.append(helper.make_tensor(name, TensorProto.FLOAT8E4M3FN, dims, raw, raw=True))
    model.ir_version = 9
    return bytes(model.SerializeToString())


@pytest.fixture
def gemm_model() -> bytes:
    """Gemm in FP32, which TensorRT-RTX cannot do on Turing."""
    weights = np.random.default_rng(1).normal(size=(8, 4)).astype(np.float32)
    return _bytes("g (float[2,8] x) => (float[2,4] y) { y = Gemm(x, w) }", {"w": weights}, 17)


@pytest.fixture
def reshape_by_input_model() -> bytes:
    """Reshape whose target shape is an input: a shape tensor."""
    return _bytes("g (float[4,6] x, int64[2] shape) => (float[R,C] y) { r = Reshape(x, shape)\n y = Relu(r) }", {}, 17)


@pytest.fixture
def two_dynamic_model() -> bytes:
    """Batch and width are dynamic, so that no profile follows by itself."""
    return _bytes("g (float[N,W] x) => (float[N,W] y) { y = Relu(x) }", {}, 17)


@pytest.fixture
def no_output_model() -> bytes:
    """A graph without outputs."""
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g",
                              [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2])], [])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]).SerializeToString()
