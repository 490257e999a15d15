"""FP8 Q/DQ: scales, what stays FP16 and why, and the simulation."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from trtkit.errors import CalibrationError
from trtkit.graph import model_bytes
from trtkit.precision import NodeSelector, Precision
from trtkit.quant import check_lowered, lower
from trtkit.quant.floats.fp8 import insert_fp8
from trtkit.ranges import CalibrationTable
from trtkit.target import get_target

Make = Callable[..., onnx.ModelProto]
Table = Callable[..., CalibrationTable]
MakeFeeds = Callable[..., list[dict[str, np.ndarray]]]


@pytest.fixture
def network(make: Make, rng: np.random.Generator) -> onnx.ModelProto:
    return make("""g (float[1,16,8,8] x) => (float[1,32] y) {
        a = Conv<pads=[1,1,1,1]>(x, w, b)\n r = Relu(a)\n d = Conv<group=32>(r, wd)
        t = ConvTranspose(d, wt)\n k = Conv(t, wk)\n p = GlobalAveragePool(k)\n f = Flatten(p)
        m = MatMul(f, w2)\n y = Gemm<transB=1>(m, w3) }""", opset=19, w=rng.normal(size=(32, 16, 3, 3)) / 12,
                b=rng.normal(size=32), wd=rng.normal(size=(32, 1, 1, 1)), wt=rng.normal(size=(32, 32, 1, 1)) / 6,
                wk=rng.normal(size=(16, 32, 7, 7)) / 40, w2=rng.normal(size=(16, 16)) / 4,
                w3=rng.normal(size=(32, 16)) / 4)


def test_layers_read_fp8_by_scales_of_amax_over_448(network: onnx.ModelProto, table: Table, feeds: MakeFeeds) -> None:
    counted = table(network, feeds(network))
    made, notes = insert_fp8(network, counted)
    onnx.checker.check_model(made, full_check=True)
    assert notes == ("3 weights and 3 activations in FP8",
                     "not in FP8, a grouped convolution: Conv_2",
                     "not in FP8, TensorRT has no FP8 kernel for ConvTranspose: ConvTranspose_3",
                     "not in FP8, a kernel of more than 32 elements: Conv_4")
    stored = {t.name: t for t in made.graph.initializer}
    assert stored["w_fp8"].data_type == TensorProto.FLOAT8E4M3FN
    weight = {t.name: onnx.numpy_helper.to_array(t) for t in network.graph.initializer}["w"]
    np.testing.assert_allclose(onnx.numpy_helper.to_array(stored["w_scale"]),
                               np.abs(weight).max(axis=(1, 2, 3)) / 448, rtol=0.02)
    assert float(onnx.numpy_helper.to_array(stored["x_scale"])) == pytest.approx(counted.tensors["x"].amax / 448,
                                                                                 rel=0.01)


def test_lowering_stays_near_float_with_fp16_around(network: onnx.ModelProto, table: Table, feeds: MakeFeeds) -> None:
    data = feeds(network)
    lowered = lower(network, get_target("jetson-thor"), Precision.FP8, table=table(network, data))
    check = check_lowered(model_bytes(network), lowered, data)
    assert check.cosine > 0.995
    types = {t.data_type for t in onnx.load_from_string(lowered.model).graph.initializer}
    assert {TensorProto.FLOAT16, TensorProto.FLOAT8E4M3FN} <= types


def test_products_of_activations_and_kept_nodes_stay(make: Make, table: Table, feeds: MakeFeeds) -> None:
    model = make("g (float[16,16] x) => (float[16,16] y) { a = MatMul(x, w)\n y = MatMul(a, x) }", opset=19,
                 w=np.ones((16, 16)))
    counted = table(model, feeds(model))
    _, notes = insert_fp8(model, counted, keep=NodeSelector(names=("MatMul_0",)))
    assert notes == ("0 weights and 0 activations in FP8", "not in FP8, asked for: MatMul_0",
                     "not in FP8, a product of two activations or constants: MatMul_1")


def test_dead_channels_and_tensors_have_positive_scales(make: Make, table: Table) -> None:
    weight = np.ones((16, 16))
    weight[:, 3], weight[:, 4] = 0.0, 1e-12
    model = make("g (float[2,16] x) => (float[2,16] y) { y = MatMul(x, w) }", opset=19, w=weight)
    made, _ = insert_fp8(model, table(model, [{"x": np.zeros((2, 16), np.float32)}]))
    for tensor in made.graph.initializer:
        if tensor.name.endswith("_scale"):
            assert (onnx.numpy_helper.to_array(tensor) > 0).all()


def test_tensor_without_values_is_refused(network: onnx.ModelProto) -> None:
    with pytest.raises(CalibrationError, match="no values for tensor 'x', which is to be quantized"):
        insert_fp8(network, CalibrationTable({}, 0, "", "", ""))


def test_small_weights_stay_when_asked(network: onnx.ModelProto, table: Table, feeds: MakeFeeds) -> None:
    _, notes = insert_fp8(network, table(network, feeds(network)), smallest=4000)
    assert notes[0] == "1 weights and 1 activations in FP8"
    assert notes[-1] == "not in FP8, fewer than 4000 weights: MatMul_7, Gemm_8"
