"""FP16-typed graphs: types that agree everywhere, and what stays in FP32."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from trtkit.errors import SpecError
from trtkit.graph import run_model
from trtkit.precision import NodeSelector
from trtkit.quant.floats.typed import to_half
from trtkit.ranges import CalibrationTable, Histogram

Make = Callable[..., onnx.ModelProto]
MakeFeeds = Callable[..., list[dict[str, np.ndarray]]]


def converted(model: onnx.ModelProto, **options: object) -> tuple[onnx.ModelProto, tuple[str, ...], dict[str, int]]:
    """Return the FP16 model, its FP32 nodes, and the type of each tensor, after every check of ONNX."""
    half, reasons = to_half(model, **options)  # type: ignore[arg-type]
    kept = tuple(node.name or node.output[0] for node in model.graph.node if (node.name or node.output[0]) in reasons)
    onnx.checker.check_model(half, full_check=True)
    inferred = onnx.shape_inference.infer_shapes(half, strict_mode=True, check_type=True).graph
    types = {v.name: v.type.tensor_type.elem_type for v in (*inferred.input, *inferred.output, *inferred.value_info)}
    return half, kept, types | {t.name: t.data_type for t in half.graph.initializer}


def agrees(model: onnx.ModelProto, half: onnx.ModelProto, feed: dict[str, np.ndarray], tolerance: float = 5e-3) -> None:
    expected = run_model(model, feed)
    for optimize in (True, False):
        for name, value in run_model(half, feed, optimize=optimize).items():
            assert value.dtype == expected[name].dtype
            np.testing.assert_allclose(value, expected[name], atol=tolerance * max(1, np.abs(expected[name]).max()))


def test_network_computes_in_fp16_and_keeps_its_inputs_and_outputs(residual: onnx.ModelProto,
                                                                  feeds: MakeFeeds) -> None:
    half, kept, types = converted(residual)
    assert kept == ()
    assert {types[name] for name in ("x", "y")} == {TensorProto.FLOAT}
    assert {types[name] for name in ("a", "r", "c", "s", "t", "p", "f", "y_fp16", "w1_fp16")} == {TensorProto.FLOAT16}
    assert [n.op_type for n in half.graph.node].count("Cast") == 2
    assert len(half.SerializeToString()) < 0.7 * len(residual.SerializeToString())
    agrees(residual, half, feeds(residual)[0])


def test_source_stays_as_it_was(residual: onnx.ModelProto) -> None:
    before = residual.SerializeToString()
    to_half(residual)
    assert residual.SerializeToString() == before


def test_delicate_operators_stay_in_fp32_between_casts(make: Make, feeds: MakeFeeds) -> None:
    model = make("""g (float[2,8] x) => (float[2,8] y) {
        a = Gemm(x, w)\n s = Softmax(a)\n m = ReduceMean<axes=[1]>(a)\n p = Mul(s, m)\n y = Gemm(p, w) }""",
                 w=np.random.default_rng(0).normal(size=(8, 8)))
    half, kept, types = converted(model)
    assert kept == ("Softmax_1", "ReduceMean_2")
    assert (types["a"], types["s"], types["m"], types["p"]) == (TensorProto.FLOAT16, TensorProto.FLOAT,
                                                                TensorProto.FLOAT, TensorProto.FLOAT16)
    assert sum(n.op_type == "Cast" and n.input[0] == "a" for n in half.graph.node) == 1  # once for both readers
    agrees(model, half, feeds(model)[0], 1e-2)


def test_resize_scales_stay_in_fp32(make: Make, feeds: MakeFeeds) -> None:
    model = make("g (float[1,2,4,4] x) => (float[1,2,8,8] y) { n = Neg(x)\n r = Resize(n, , scales)\n y = Neg(r) }",
                 scales=np.array([1.0, 1, 2, 2]))
    half, _, types = converted(model)
    assert types["scales"] == TensorProto.FLOAT
    assert types["r"] == TensorProto.FLOAT16
    agrees(model, half, feeds(model)[0])


def test_computed_resize_scales_stay_in_fp32(make: Make, feeds: MakeFeeds) -> None:
    model = make("g (float[1,2,4,4] x) => (float[1,2,8,8] y) { t = Mul(ones, two)\n y = Resize(x, , t) }",
                 ones=np.array([1.0, 1, 2, 2]), two=1.0)
    half, _, types = converted(model)
    resize = next(n for n in half.graph.node if n.op_type == "Resize")
    assert types[resize.input[2]] == TensorProto.FLOAT
    agrees(model, half, feeds(model)[0])


def test_casts_to_float_become_casts_to_half(make: Make) -> None:
    model = make("""g (int64[4] i, float[4] x) => (float[4] y, int64[4] z) {
        f = Cast<to=1>(i)\n s = Add(f, x)\n z = Cast<to=7>(s)\n b = Cast<to=9>(s)
        g = Cast<to=1>(b)\n y = Mul(g, s) }""")
    half, _, types = converted(model)
    assert types["f"] == types["g"] == TensorProto.FLOAT16
    assert types["z"] == TensorProto.INT64
    agrees(model, half, {"i": np.arange(4), "x": np.linspace(0, 1, 4, dtype=np.float32)})


def test_subgraphs_stay_untouched_and_see_float(make: Make, feeds: MakeFeeds) -> None:
    model = make("""g (float[1,2,4,4] x, bool[1] k) => (float[1,2,4,4] y) {
        a = Conv(x, w)
        e = If(k) <then_branch = yes () => (float[1,2,4,4] u) { u = Add(a, c) },
                   else_branch = no () => (float[1,2,4,4] v) { v = Identity(a) }>
        r = Relu(a)
        y = Add(r, e) }""", w=np.ones((2, 2, 1, 1)), c=np.ones((1, 2, 1, 1)))
    half, kept, types = converted(model)
    assert kept == ("If_1",)
    assert (types["a"], types["c"], types["r"]) == (TensorProto.FLOAT, TensorProto.FLOAT, TensorProto.FLOAT16)
    before, after = (next(n for n in m.graph.node if n.op_type == "If") for m in (model, half))
    assert before.attribute == after.attribute
    for flag in (True, False):
        agrees(model, half, {**feeds(model)[0], "k": np.array([flag])})


@pytest.mark.parametrize(("value", "stays"), [
    pytest.param(1e5, True, id="too-large"),
    pytest.param(-np.inf, True, id="infinite"),
    pytest.param(1e-9, True, id="too-small"),
    pytest.param(0.0, False, id="zero"),
    pytest.param(65504.0, False, id="largest"),
    pytest.param(1e-6, True, id="too-few-digits"),
    pytest.param(1e-5, False, id="subnormal"),
])
def test_constants_that_do_not_fit_keep_their_node_in_fp32(make: Make, value: float, stays: bool) -> None:
    model = make("g (float[2] x) => (float[2] y) { a = Neg(x)\n b = Max(a, k)\n y = Neg(b) }",
                 k=np.array([value, value]))
    half, kept, types = converted(model)
    assert kept == (("Max_1",) if stays else ())
    assert ("k" in types) is stays
    assert all(np.isfinite(onnx.numpy_helper.to_array(t)).all() or stays for t in half.graph.initializer)


def test_nodes_near_overflow_stay_in_fp32_when_the_table_says_so(make: Make) -> None:
    model = make("g (float[2] x) => (float[2] y) { a = Mul(x, x)\n b = Neg(a)\n c = Relu(b)\n y = Neg(c) }")
    values = {"x": 300.0, "a": 9e4, "b": -9e4, "c": 0.0}
    tensors = {name: Histogram.of(np.array([value])) for name, value in values.items()}
    _, kept, types = converted(model, table=CalibrationTable(tensors, 1, "", "", ""))
    assert kept == ("Mul_0", "Neg_1", "Relu_2")
    assert types["c_fp16"] == TensorProto.FLOAT16
    assert converted(model)[1] == ()


def test_kept_nodes_stay_in_fp32_when_selected(residual: onnx.ModelProto, feeds: MakeFeeds) -> None:
    half, kept, types = converted(residual, keep=NodeSelector(op_types=("Gemm",)))
    assert kept == ("Gemm_7",)
    assert types["w3"] == TensorProto.FLOAT
    agrees(residual, half, feeds(residual)[0])
    with pytest.raises(SpecError, match="'Nope' matches no node's operator"):
        to_half(residual, keep=NodeSelector(op_types=("Nope",)))


def test_one_nameless_node_is_kept_not_all(residual: onnx.ModelProto) -> None:
    for node in residual.graph.node:
        node.name = ""
    assert converted(residual, keep=NodeSelector(op_types=("Gemm",)))[1] == ("y",)


def test_shared_constant_is_there_in_both_types_when_both_need_it(make: Make, feeds: MakeFeeds) -> None:
    model = make("g (float[2,4] x) => (float[2,4] y) { a = Mul(x, k)\n p = Pow(x, k)\n y = Add(a, p) }",
                 k=np.array([1.0, 2, 3, 2]))
    half, kept, types = converted(model)
    assert kept == ("Pow_1",)
    assert (types["k"], types["k_fp16"]) == (TensorProto.FLOAT, TensorProto.FLOAT16)
    agrees(model, half, feeds(model)[0], 2e-2)


def test_outputs_that_are_read_inside_are_cast_once(make: Make, feeds: MakeFeeds) -> None:
    model = make("g (float[2,4] x) => (float[2,4] a, float[2,4] y) { a = Neg(x)\n y = Relu(a) }")
    half, _, types = converted(model)
    assert [n.input[0] for n in half.graph.node if n.op_type == "Relu"] == ["a_fp16"]
    assert types["a"] == TensorProto.FLOAT
    agrees(model, half, feeds(model)[0])


def test_integer_paths_stay_untouched(make: Make) -> None:
    model = make("""g (float[2,4] x) => (float[4,2] y) {
        s = Shape(x)\n r = Gather(s, order)\n n = Neg(x)\n y = Reshape(n, r) }""", order=np.array([1, 0]))
    half, _, types = converted(model)
    assert (types["s"], types["r"], types["n"]) == (TensorProto.INT64, TensorProto.INT64, TensorProto.FLOAT16)
    agrees(model, half, {"x": np.ones((2, 4), np.float32)})


def test_new_tensors_evade_names_that_are_taken(make: Make, feeds: MakeFeeds) -> None:
    model = make("""g (float[2,4] x, float[2,4] x_fp16) => (float[2,4] y, float[2,4] y_fp16) {
        s_fp32 = Add(x, x_fp16)\n s = Softmax(s_fp32)\n y = Mul(s, k)\n y_fp16 = Mul(s_fp32, k_fp16) }""", k=2.0,
                 k_fp16=3.0)
    half, _, _ = converted(model)
    agrees(model, half, feeds(model)[0])


def test_operators_with_a_type_of_their_own_stay_in_fp32(make: Make) -> None:
    model = make("g (int64 n, float[8] x) => (float[8] y) { h = HannWindow(n)\n y = Mul(h, x) }")
    half, kept, _ = converted(model)
    assert kept == ("HannWindow_0",)
    agrees(model, half, {"n": np.asarray(8), "x": np.ones(8, np.float32)})


def test_weights_that_are_graph_inputs_as_well_are_no_inputs_afterwards(make: Make) -> None:
    model = make("g (float[2] x, float[2] w) => (float[2] y) { y = Mul(x, w) }", w=np.ones(2))
    model.ir_version = 3
    half, _, _ = converted(model)
    assert [i.name for i in half.graph.input] == ["x"]
