"""INT8 layers with FP16 between them: types, scales, and what keeps its pair in FP32."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from trtkit.graph import infer_shapes, model_bytes, run_model
from trtkit.precision import NodeSelector, Precision
from trtkit.quant import check_lowered, lower
from trtkit.quant.floats.half import FP16
from trtkit.quant.floats.mixed import half_scale, keep_small, type_quantized
from trtkit.ranges import CalibrationTable
from trtkit.target import get_target

Make = Callable[..., onnx.ModelProto]
Table = Callable[..., CalibrationTable]
MakeFeeds = Callable[..., list[dict[str, np.ndarray]]]

PAIR = """g (float[4,4] z) => (float[4,4] y) {
    x = Neg(z)\n q = QuantizeLinear(x, s, zero)\n d = DequantizeLinear(q, s, zero)
    w = DequantizeLinear<axis=1>(v, t, zeros)\n m = MatMul(d, w)\n y = Neg(m) }"""


def typed(model: onnx.ModelProto, kept: dict[str, str] | None = None) -> tuple[dict[str, int], dict[str, str]]:
    """Return the type of each tensor and what stays in FP32, after ONNX's checks; `model` is changed."""
    reasons = type_quantized(model, kept or {})
    onnx.checker.check_model(model, full_check=True)
    graph = onnx.shape_inference.infer_shapes(model, strict_mode=True, check_type=True).graph
    types = {v.name: v.type.tensor_type.elem_type for v in (*graph.input, *graph.output, *graph.value_info)}
    return types | {t.name: t.data_type for t in graph.initializer}, reasons


def pair(make: Make, scale: float, weights: object = 0.01) -> onnx.ModelProto:
    return make(PAIR, opset=19, s=scale, zero=np.int8(0), v=np.arange(-8, 8, dtype=np.int8).reshape(4, 4) * 15,
                t=np.broadcast_to(weights, 4).astype(np.float32), zeros=np.zeros(4, np.int8))


def test_scales_and_everything_between_become_fp16(make: Make) -> None:
    model = pair(make, 0.02)
    before, feed = model_bytes(model), {"z": np.random.default_rng(0).normal(size=(4, 4)).astype(np.float32)}
    types, reasons = typed(model)
    assert reasons == {}
    assert {types[name] for name in ("x", "d", "w", "m", "s_fp16", "t_fp16")} == {TensorProto.FLOAT16}
    assert {types[name] for name in ("q", "v")} == {TensorProto.INT8}
    expected = run_model(before, feed, optimize=False)["y"]
    np.testing.assert_allclose(run_model(model, feed, optimize=False)["y"], expected, atol=5e-3)


def test_pair_stays_in_fp32_when_its_scale_is_too_small(make: Make) -> None:
    types, reasons = typed(pair(make, 5e-7))
    assert reasons == dict.fromkeys(("QuantizeLinear_1", "DequantizeLinear_2"), "its scale 5e-07 is none of FP16's")
    assert (types["s"], types["d"], types["d_fp16"]) == (TensorProto.FLOAT, TensorProto.FLOAT, TensorProto.FLOAT16)


def test_pair_of_a_kept_layer_stays_in_fp32(make: Make) -> None:
    types, _ = typed(pair(make, 0.02), {"MatMul_4": "asked for"})
    assert {types[name] for name in ("d", "w", "m")} == {TensorProto.FLOAT}
    assert types["x"] == TensorProto.FLOAT16


def test_input_of_the_model_is_quantized_without_a_cast(make: Make) -> None:
    model = make(PAIR.replace("x = Neg(z)\n ", "").replace("(x,", "(z,"), opset=19, s=0.02, zero=np.int8(0),
                 v=np.ones((4, 4), np.int8), t=np.full(4, 0.1), zeros=np.zeros(4, np.int8))
    types, _ = typed(model)
    assert [node.op_type for node in model.graph.node][:2] == ["QuantizeLinear", "DequantizeLinear"]
    assert types["d"] == TensorProto.FLOAT16
    quantize, dequantize = (next(n for n in model.graph.node if n.op_type == op)
                            for op in ("QuantizeLinear", "DequantizeLinear"))
    scales = {t.name: float(onnx.numpy_helper.to_array(t)) for t in model.graph.initializer if not t.dims}
    assert scales[quantize.input[1]] == scales[dequantize.input[1]]  # the FP32 one is a float16 number as well


def test_integers_are_rounded_anew_when_a_weight_scale_is_below_normal(make: Make) -> None:
    weights = np.array([0.01, 1e-5, 7e-7, 1e-9])
    model = pair(make, 0.02, weights)
    before = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    wanted = before["v"] * before["t"]
    _, reasons = typed(model)
    after = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    assert reasons == {}
    error = np.abs(after["v"] * after["t_fp16"].astype(np.float64) - wanted)
    assert (error <= np.maximum(0.51 * after["t_fp16"].astype(np.float64) * (weights < FP16.smallest_normal),
                                1e-3 * np.abs(wanted))).all()


def test_half_scales_are_float16_numbers_that_do_not_shrink_below_normal() -> None:
    scales = np.array([1e-9, 1e-6, 1.5e-5, 0.0123456, 700.0], np.float32)
    found = half_scale(scales)
    np.testing.assert_array_equal(found, found.astype(np.float16).astype(np.float32))
    assert (found[:3] >= scales[:3]).all()
    np.testing.assert_allclose(found[3:], scales[3:], rtol=2.0**-11)


def test_mixed_lowering_is_as_good_as_int8(residual: onnx.ModelProto, table: Table,
                                                                 feeds: MakeFeeds) -> None:
    data = feeds(residual)
    counted = table(residual, data)
    sizes = {each: lower(residual, get_target("trt11"), each, table=counted)
             for each in (Precision.FP16, Precision.INT8, Precision.INT8_FP16)}
    check = {each: check_lowered(model_bytes(residual), lowered, data) for each, lowered in sizes.items()}
    assert check[Precision.INT8_FP16].sqnr_db > check[Precision.INT8].sqnr_db - 1.0
    kinds = {t.data_type for t in onnx.load_from_string(sizes[Precision.INT8_FP16].model).graph.initializer}
    assert TensorProto.FLOAT16 in kinds
    assert infer_shapes(onnx.load_from_string(sizes[Precision.INT8_FP16].model)).opset_import[0].version == 19


@pytest.mark.parametrize("target", ["jetson-xavier-jp5", "orin-dla"])
def test_weak_mixed_is_plain_onnx_with_the_cache_of_int8(residual: onnx.ModelProto, table: Table, feeds: MakeFeeds,
                                                         target: str) -> None:
    counted = table(residual, feeds(residual))
    mixed, int8 = (lower(residual, get_target(target), each, table=counted)
                   for each in (Precision.INT8_FP16, Precision.INT8))
    assert mixed.model == int8.model
    assert mixed.cache == int8.cache
    assert mixed.simulation != int8.simulation


def test_layers_that_tensorrt_rtx_gains_nothing_from_stay_fp16(make: Make, table: Table, feeds: MakeFeeds) -> None:
    rng = np.random.default_rng(0)
    model = make("""g (float[1,256,4,4] x) => (float[1,64,4,4] y) {
        a = Conv(x, w)\n b = Conv<group=8192>(a, v)\n c = Conv(b, u)\n y = Conv(c, t) }""",
                 w=rng.normal(size=(8192, 256, 1, 1)) / 16, v=rng.normal(size=(8192, 1, 1, 1)),
                 u=rng.normal(size=(64, 8192, 1, 1)) / 90, t=rng.normal(size=(64, 64, 1, 1)) / 8)
    model.graph.node[3].name = "last[1]"
    kept = keep_small(model, NodeSelector(names=("Conv_0",)))
    assert kept.select((node.name, node.op_type) for node in model.graph.node) == {"Conv_0", "Conv_1", "last[1]"}
    counted = table(model, feeds(model, count=1))
    quantized = {name: onnx.load_from_string(lower(model, get_target(name), Precision.INT8_FP16, table=counted).model)
                 for name in ("rtx", "trt11")}
    assert {name: sum(node.op_type == "QuantizeLinear" for node in each.graph.node)
            for name, each in quantized.items()} == {"rtx": 2, "trt11": 4}


def test_products_of_activations_stay_fp16_on_tensorrt_rtx(make: Make) -> None:
    model = make("g (float[4,300] x) => (float[4,300] y) { a = Transpose(x)\n b = MatMul(x, a)\n c = MatMul(b, x)\n"
                 "y = MatMul(c, w) }", w=np.ones((300, 300)))
    kept = keep_small(model, NodeSelector())
    assert kept.select((node.name, node.op_type) for node in model.graph.node) == {"MatMul_1", "MatMul_2"}
