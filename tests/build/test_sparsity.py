"""SPARSE_WEIGHTS where the weights are 2:4 sparse; engines by TensorRT-RTX, without a GPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from trtkit.build import BuildOptions, Plan, build_plan
from trtkit.build.faults import Watch
from trtkit.build.flavour import load_flavour
from trtkit.build.network import create_network, parse_onnx
from trtkit.build.sparsity import wants_sparse_kernels
from trtkit.precision import Precision
from trtkit.runtime.trt_log import LogLine, capture_log

CONV = "g (float[1,8,8,8] x) => (float[1,8,8,8] y) { y = Conv<pads=[1,1,1,1]>(x, w) }"
GROUPED = "g (float[1,8,8,8] x) => (float[1,8,8,8] y) { y = Conv<pads=[1,1,1,1], group=2>(x, w) }"
MATMUL = "g (float[2,8] x) => (float[2,12] y) { y = MatMul(x, w) }"
GEMM = "g (float[2,8] x) => (float[2,12] y) { y = Gemm<transB=1>(x, w) }"
QDQ = """g (float[1,8,8,8] x) => (float[1,8,8,8] y) { q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z)
         v = DequantizeLinear<axis=0>(w, ws) y = Conv<pads=[1,1,1,1]>(d, v) }"""


def _weight(shape: tuple[int, ...], axis: int) -> np.ndarray:
    """Return weights of which two of four along an axis are 0."""
    dense = np.random.default_rng(0).uniform(1, 100, shape)
    last = np.moveaxis(dense, axis, -1)
    fours = last.reshape(-1, 4).copy()
    fours[::2, :2] = 0
    fours[1::2, 1:3] = 0
    return np.ascontiguousarray(np.moveaxis(fours.reshape(last.shape), -1, axis))


def _model(text: str, weight: np.ndarray, dtype: str = "float32") -> bytes:
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]>\n{text}')
    arrays = {"w": weight.astype(dtype)}
    if "DequantizeLinear" in text:
        arrays |= {"s": np.array(0.1, np.float32), "z": np.array(0, np.int8),
                   "ws": np.full(len(weight), 0.1, np.float32)}
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in arrays.items())
    return bytes(model.SerializeToString())


@pytest.fixture(scope="module")
def wants(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return a function: model, options -> whether sparse kernels are wanted, asked on the network that is parsed."""
    flavour = load_flavour("tensorrt_rtx", "")
    log, logger = capture_log(flavour.trt)
    watch = Watch(flavour, log)
    builder = flavour.trt.Builder(logger)

    def ask(model: bytes, **more: Any) -> bool:
        path = tmp_path_factory.mktemp("sparse") / "model.onnx"
        path.write_bytes(model)
        network = create_network(flavour, builder, "strong", watch)
        parser = parse_onnx(flavour, network, logger, path, watch)
        answer = wants_sparse_kernels(flavour, network, BuildOptions(flavour="tensorrt_rtx", **more))
        del parser
        return answer

    return ask


@pytest.mark.parametrize(("text", "shape", "axis", "dtype", "wanted"), [
    (CONV, (8, 8, 3, 3), 1, "float32", True),
    (CONV, (8, 8, 3, 3), 0, "float32", False),
    (GROUPED, (8, 4, 3, 3), 1, "float32", False),
    (MATMUL, (8, 12), 0, "float32", True),
    (GEMM, (12, 8), 1, "float32", True),
    (QDQ, (8, 8, 3, 3), 1, "int8", True),
    (QDQ, (8, 8, 3, 3), 0, "int8", False),
], ids=["Conv", "along outputs", "grouped", "MatMul", "Gemm", "INT8", "INT8 along outputs"])
def test_sparse_kernels_are_wanted_when_input_channels_are_two_four(
        wants: Any, text: str, shape: tuple[int, ...], axis: int, dtype: str, wanted: bool) -> None:
    assert wants(_model(text, _weight(shape, axis), dtype)) is wanted


@pytest.mark.parametrize("weight", [np.ones((8, 8, 3, 3)), np.zeros((8, 8, 3, 3))], ids=["dense", "all zero"])
def test_sparse_kernels_are_not_wanted_when_nothing_is_two_four(wants: Any, weight: np.ndarray) -> None:
    assert wants(_model(CONV, weight)) is False


@pytest.mark.parametrize(("more", "wanted"), [
    ({"sm": "7.2"}, False), ({"sm": "8.7"}, True), ({"compute_capabilities": ("7.5",)}, False),
    ({"compute_capabilities": ("7.5", "12.0")}, True), ({"sm": "7.2", "sparse_weights": True}, True),
    ({"sparse_weights": False}, False),
], ids=["Xavier", "Orin", "Turing", "one of two", "asked for", "turned off"])
def test_sparse_kernels_are_wanted_when_the_gpu_may_have_them(wants: Any, more: dict[str, Any], wanted: bool) -> None:
    assert wants(_model(CONV, _weight((8, 8, 3, 3), 1)), **more) is wanted


def test_plan_tells_what_tensorrt_said_on_sparse_kernels() -> None:
    said = [LogLine("INFO", text) for text in ("Detected 1 inputs", "(Sparsity) Layers eligible for sparse math: a")]
    plan = build_plan(_model(CONV, _weight((8, 8, 3, 3), 1)), BuildOptions(flavour="tensorrt_rtx"))
    assert Plan(b"", plan.key, tuple(said), 1.0).sparsity == (said[1].text,)
    assert plan.sparsity == ()


def test_rtx_writes_the_same_plan_with_and_without_the_flag() -> None:
    """Told to users in trtkit.build.sparsity: change that when this fails."""
    model = _model(QDQ, _weight((8, 8, 3, 3), 1), "int8")
    sparse, dense = (build_plan(model, BuildOptions(flavour="tensorrt_rtx", sparse_weights=wanted))
                     for wanted in (True, False))
    assert sparse.data == dense.data
    assert (sparse.key.flags, dense.key.flags) == (("SPARSE_WEIGHTS",), ())


@pytest.mark.parametrize(("axis", "flags"), [(1, ("SPARSE_WEIGHTS",)), (0, ())], ids=["sparse", "not"])
def test_build_sets_the_flag_and_notes_it_when_weights_are_two_four(axis: int, flags: tuple[str, ...]) -> None:
    plan = build_plan(_model(QDQ, _weight((8, 8, 3, 3), axis), "int8"),
                      BuildOptions(flavour="tensorrt_rtx", precision=Precision.INT8))
    assert plan.key.flags == flags
