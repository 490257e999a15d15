"""Where quantization goes: for each rule a match, a near miss, and equal numbers (the latter in what ORT runs)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest

from trtkit.errors import SpecError
from trtkit.graph import run_model
from trtkit.precision import NodeSelector, QuantSpec
from trtkit.quant.index import GraphIndex
from trtkit.quant.placement import (
    PLACEMENTS,
    Points,
    end_layers,
    get_placement,
    is_depthwise,
    place,
    row_bias,
)
from trtkit.quant.static.qdq import insert_qdq
from trtkit.ranges import CalibrationTable

Make = Callable[..., onnx.ModelProto]
TRT, U8 = get_placement("tensorrt"), get_placement("onnxruntime-u8")
INTEGER = {"QLinearConv", "QGemm", "QLinearAdd", "QLinearMul", "QLinearConcat", "QLinearGlobalAveragePool",
           "QLinearAveragePool", "QLinearMatMul", "MatMulIntegerToFloat"}


def points(model: onnx.ModelProto, placement: str = "tensorrt", keep: tuple[str, ...] = ()) -> Points:
    return place(GraphIndex(model), get_placement(placement), set(keep))


def conv(channels_in: int, channels_out: int, group: int = 1, kernel: int = 1) -> np.ndarray:
    rng = np.random.default_rng(channels_in + channels_out)
    return rng.normal(size=(channels_out, channels_in // group, kernel, kernel)).astype(np.float32)


def test_get_placement_names_them_all_when_one_is_unknown() -> None:
    with pytest.raises(SpecError, match=r"'tpu' is unknown.*tensorrt, onnxruntime-u8"):
        get_placement("tpu")


def test_placements_quantize_as_their_runtimes_want() -> None:
    assert TRT.activation_bounds == (-127, 127)
    assert U8.activation_bounds == (0, 255)
    assert get_placement("onnxruntime-s8").activation_bounds == (-128, 127)
    assert get_placement("onnxruntime-u8-7bit").weight_max == 64
    assert get_placement("onnxruntime-u8-amx").matrix_products
    assert set(PLACEMENTS) == {"tensorrt", "onnxruntime-u8", "onnxruntime-u8-amx", "onnxruntime-u8-7bit",
                               "onnxruntime-s8"}


def test_tensorrt_quantizes_inputs_not_outputs(residual: onnx.ModelProto) -> None:
    found = points(residual)
    assert {name: [(n.op_type, p) for n, p in readers or ()] for name, readers in found.activations.items()} == {
        "x": [("Conv", 0)], "r": [("Conv", 0), ("Add", 1)], "f": [("Gemm", 0)]}
    assert [(w.node.op_type, w.position, w.axis) for w in found.weights] == [
        ("Conv", 1, 0), ("Conv", 1, 0), ("Gemm", 1, 0)]
    assert found.absorbed == {}


def test_onnxruntime_quantizes_all_between_integers(residual: onnx.ModelProto) -> None:
    found = points(residual, "onnxruntime-u8")
    assert set(found.activations) == {"x", "r", "c", "t", "p", "f"}
    assert set(found.activations.values()) == {None}
    assert set(found.absorbed) == {"r", "t"}
    assert found.same_scale == {"f": "p"}


def test_kept_nodes_are_left_out(residual: onnx.ModelProto) -> None:
    assert "f" not in points(residual, keep=("Gemm_7",)).activations
    assert len(points(residual, keep=("Gemm_7",)).weights) == 2


def test_residual_add_quantizes_nothing_when_neither_branch_ends_in_a_quantized_layer(make: Make) -> None:
    text = """g (float[1,4,4,4] x) => (float[1,4,4,4] y) {{
        c = Conv(x, w)\n {middle}\n y = Add(z, x) }}"""
    fused, near = (make(text.format(middle=middle), w=conv(4, 4)) for middle in ("z = Relu(c)", "z = Sigmoid(c)"))
    assert [(n.op_type, p) for n, p in points(near).activations["x"] or ()] == [("Conv", 0)]
    assert [(n.op_type, p) for n, p in points(fused).activations["x"] or ()] == [("Conv", 0)]
    direct = make("g (float[1,4,4,4] x) => (float[1,4,4,4] y) { z = Conv(x, w)\n y = Add(z, x) }", w=conv(4, 4))
    assert [(n.op_type, p) for n, p in points(direct).activations["x"] or ()] == [("Conv", 0), ("Add", 1)]
    assert points(direct, keep=("Conv_0",)).activations == {}


def test_residual_add_takes_the_second_branch_as_the_skip_when_both_end_in_layers(make: Make) -> None:
    model = make("""g (float[1,4,4,4] x) => (float[1,4,4,4] y) {
        a = Conv(x, w)\n b = Conv(x, w)\n y = Add(a, b) }""", w=conv(4, 4))
    assert set(points(model).activations) == {"x", "b"}


@pytest.mark.parametrize("other", ["Add(a, k)", "Add(a, a)"], ids=["constant", "itself"])
def test_residual_add_quantizes_nothing_when_there_is_no_skip(make: Make, other: str) -> None:
    model = make(f"g (float[1,4,4,4] x) => (float[1,4,4,4] y) {{ a = Conv(x, w)\n y = {other} }}", w=conv(4, 4),
                 k=np.ones((1, 4, 1, 1)))
    assert set(points(model).activations) == {"x"}


@pytest.mark.parametrize(("channels", "quantized"), [(32, False), (64, True)])
def test_narrow_depthwise_convolutions_stay_in_float_on_tensorrt(make: Make, channels: int, quantized: bool) -> None:
    model = make(f"g (float[1,{channels},4,4] x) => (float[1,{channels},4,4] y) {{ y = Conv<group={channels}>(x, w) }}",
                 w=conv(channels, channels, channels))
    assert bool(points(model).weights) is quantized
    assert points(model, "onnxruntime-u8").weights


def test_is_depthwise_tells_grouped_apart(make: Make) -> None:
    for group, depthwise in ((1, False), (2, False), (4, True)):
        model = make(f"g (float[1,4,4,4] x) => (float[1,4,4,4] y) {{ y = Conv<group={group}>(x, w) }}",
                     w=conv(4, 4, group))
        assert is_depthwise(GraphIndex(model), model.graph.node[0]) is depthwise


@pytest.mark.parametrize(("node", "shape", "axis"), [
    pytest.param("Conv", (6, 4, 1, 1), 0, id="conv"),
    pytest.param("Conv<group=4>", (8, 1, 3, 3), 0, id="depthwise"),
    pytest.param("Conv<group=2>", (6, 2, 3, 3), 0, id="grouped"),
    pytest.param("ConvTranspose", (4, 6, 2, 2), 1, id="transposed"),
    pytest.param("ConvTranspose<group=2>", (4, 3, 2, 2), None, id="transposed-grouped"),
])
def test_weight_axis_is_the_output_channel_of_a_convolution(make: Make, node: str, shape: tuple[int, ...],
                                                            axis: int | None) -> None:
    model = make(f"g (float[1,4,8,8] x) => (float[N,C,H,W] y) {{ y = {node}(x, w) }}", w=np.ones(shape))
    (weight,) = place(GraphIndex(model), TRT, set()).weights or [None]
    if "group=4" in node:
        assert weight is None
        (weight,) = points(model, "onnxruntime-u8").weights
    assert weight is not None
    assert weight.axis == axis


@pytest.mark.parametrize(("node", "shape", "position", "axis"), [
    pytest.param("Gemm(x, w)", (4, 6), 1, 1, id="gemm"),
    pytest.param("Gemm<transB=1>(x, w)", (6, 4), 1, 0, id="gemm-transB"),
    pytest.param("MatMul(x, w)", (4, 6), 1, 1, id="matmul"),
    pytest.param("MatMul(x, w)", (1, 4, 6), 1, None, id="matmul-batched"),
    pytest.param("MatMul(w, x)", (6, 4), 0, None, id="matmul-left"),
])
def test_weight_axis_is_the_output_column_of_a_product(make: Make, node: str, shape: tuple[int, ...], position: int,
                                                       axis: int | None) -> None:
    out = "N,C" if len(shape) == 2 else "B,N,C"
    (weight,) = points(make(f"g (float[4,4] x) => (float[{out}] y) {{ y = {node} }}", w=np.ones(shape))).weights
    assert (weight.position, weight.axis) == (position, axis)


def test_matmul_of_two_activations_quantizes_both_on_tensorrt_and_none_on_cpus(make: Make) -> None:
    model = make("g (float[2,4] x, float[4,2] z) => (float[2,2] y) { y = MatMul(x, z) }")
    assert set(points(model).activations) == {"x", "z"}
    assert points(model).weights == []
    assert points(model, "onnxruntime-u8") == Points()


def test_a_product_of_constants_is_left_alone(make: Make) -> None:
    model = make("g (float[2,2] x) => (float[2,2] y) { c = MatMul(v, w)\n y = Add(x, c) }", v=np.ones((2, 2)),
                 w=np.ones((2, 2)))
    assert points(model).activations == {}


@pytest.mark.parametrize("moved", ["Reshape(k, shape)", "Unsqueeze(row, zero)"])
def test_what_moves_constants_is_left_alone(make: Make, moved: str) -> None:
    model = make(f"g (float[1,4] x) => (float[1,4] y) {{ m = {moved}\n y = Add(x, m) }}", k=np.ones((2, 2)),
                 row=np.ones(4), shape=np.array([1, 4]), zero=np.array([0]))
    assert points(model, "onnxruntime-u8") == Points()


@pytest.mark.parametrize(("gemm", "bias", "row"), [
    pytest.param("Gemm(x, w)", None, True, id="none"),
    pytest.param("Gemm(x, w, b)", np.ones(3), True, id="vector"),
    pytest.param("Gemm(x, w, b)", np.ones((1, 3)), True, id="row"),
    pytest.param("Gemm(x, w, b)", np.float32(1), True, id="scalar"),
    pytest.param("Gemm(x, w, b)", np.ones((2, 1)), False, id="column"),
    pytest.param("Gemm(x, w, x2)", None, False, id="computed"),
    pytest.param("Gemm<alpha=0.5>(x, w, b)", np.ones(3), False, id="alpha"),
    pytest.param("Gemm<beta=0.5>(x, w, b)", np.ones(3), False, id="beta"),
])
def test_gemm_is_quantized_for_onnxruntime_when_its_bias_fits_an_integer_kernel(
        make: Make, table: Callable[..., CalibrationTable], feeds: Callable[..., list[dict[str, np.ndarray]]],
        chosen: Callable[..., list[str]], gemm: str, bias: np.ndarray | None, row: bool) -> None:
    text = f"g (float[2,3] x) => (float[2,3] y) {{ x2 = Neg(x)\n h = Relu(x2)\n y = {gemm} }}"
    model = make(text, w=np.random.default_rng(3).normal(size=(3, 3)), **({} if bias is None else {"b": bias}))
    node = model.graph.node[2]
    assert (row_bias(GraphIndex(model), node) is not None) is row
    assert len(points(model, "onnxruntime-u8").weights) == row
    assert len(points(model).weights) == 1
    data = feeds(model)
    quantized, _ = insert_qdq(model, table(model, data), U8, QuantSpec())
    assert ("QGemm" in chosen(quantized)) is row
    np.testing.assert_allclose(run_model(quantized, data[0])["y"], run_model(model, data[0])["y"], atol=0.15)


@pytest.mark.parametrize(("text", "kernels"), [
    pytest.param("""a = Conv<pads=[1,1,1,1]>(x, w3)\n r = Relu(a)\n y = Conv(r, w1)""",
                 ["QLinearConv", "QLinearConv"], id="conv-relu"),
    pytest.param("a = Conv(x, w1)\n r = Clip(a, zero, six)\n y = Conv(r, w1)", ["QLinearConv", "QLinearConv"],
                 id="conv-relu6"),
    pytest.param("a = Conv<group=4,pads=[1,1,1,1]>(x, wd)\n y = Conv(a, w1)", ["QLinearConv", "QLinearConv"],
                 id="depthwise"),
    pytest.param("a = Conv(x, w1)\n b = Conv(a, w1)\n s = Add(a, b)\n r = Relu(s)\n y = Conv(r, w1)",
                 ["QLinearConv", "QLinearConv", "QLinearAdd", "QLinearConv"], id="add-relu"),
    pytest.param("a = Conv(x, w1)\n b = Conv(a, w1)\n s = Mul(a, b)\n y = Conv(s, w1)",
                 ["QLinearConv", "QLinearConv", "QLinearMul", "QLinearConv"], id="mul"),
    pytest.param("a = Conv(x, w1)\n b = Conv(a, w1)\n s = Concat<axis=1>(a, b)\n y = Conv(s, w8)",
                 ["QLinearConv", "QLinearConv", "QLinearConcat", "QLinearConv"], id="concat"),
    pytest.param("a = Conv(x, w1)\n b = AveragePool<kernel_shape=[1,1]>(a)\n y = Conv(b, w1)",
                 ["QLinearConv", "QLinearAveragePool", "QLinearConv"], id="average"),
    pytest.param("a = Conv(x, w1)\n b = MaxPool<kernel_shape=[1,1]>(a)\n y = Conv(b, w1)",
                 ["QLinearConv", "QLinearConv"], id="max"),
    pytest.param("a = Conv(x, w1)\n b = GlobalAveragePool(a)\n f = Flatten(b)\n h = Gemm(f, g1, b1)\n"
                 " y = Unsqueeze(h, axes)", ["QLinearConv", "QLinearGlobalAveragePool", "QGemm"], id="head"),
])
@pytest.mark.parametrize("placement", ["onnxruntime-u8", "onnxruntime-u8-7bit"])
def test_onnxruntime_really_computes_in_integers(
        make: Make, table: Callable[..., CalibrationTable], feeds: Callable[..., list[dict[str, np.ndarray]]],
        chosen: Callable[..., list[str]], text: str, kernels: list[str], placement: str) -> None:
    rng = np.random.default_rng(1)
    model = make(f"g (float[1,4,6,6] x) => (float[A,B,C,D] y) {{ {text} }}", w3=conv(4, 4, kernel=3) / 6,
                 w1=np.eye(4).reshape(4, 4, 1, 1) + conv(4, 4) / 8, wd=conv(4, 4, 4, 3) / 3, w8=conv(8, 4) / 3,
                 g1=rng.normal(size=(4, 3)), b1=rng.normal(size=3), zero=0.0, six=6.0, axes=np.array([2, 3]))
    data = feeds(model)
    quantized, _ = insert_qdq(model, table(model, data), get_placement(placement), QuantSpec())
    operators = chosen(quantized)
    assert sorted(op for op in operators if op in INTEGER) == sorted(kernels)
    assert not {"Conv", "FusedConv", "Gemm", "Relu", "Clip", "Add", "Mul", "Concat"} & set(operators)
    assert operators.count("QuantizeLinear") == 1
    assert operators.count("DequantizeLinear") <= 1  # behind the last one, or none where a float comes out
    expected, actual = run_model(model, data[0])["y"], run_model(quantized, data[0])["y"]
    assert np.abs(actual - expected).max() < 0.08 * np.abs(expected).max()


def test_signed_placement_computes_in_integers_too(make: Make, chosen: Callable[..., list[str]],
                                                   table: Callable[..., CalibrationTable],
                                                   feeds: Callable[..., list[dict[str, np.ndarray]]]) -> None:
    # a chain: on x86 ONNX Runtime turns s8 into u8 first, and only where one node reads a tensor; Arm takes s8 as it is
    model = make("""g (float[1,4,6,6] x) => (float[1,3] y) {
        a = Conv(x, w)\n r = Relu(a)\n c = Conv(r, w)\n p = GlobalAveragePool(c)\n f = Flatten(p)\n y = Gemm(f, g) }""",
                 w=conv(4, 4), g=np.random.default_rng(1).normal(size=(4, 3)))
    quantized, _ = insert_qdq(model, table(model, feeds(model)), get_placement("onnxruntime-s8"), QuantSpec())
    assert [op for op in chosen(quantized) if op in INTEGER] == [
        "QLinearConv", "QLinearConv", "QLinearGlobalAveragePool", "QGemm"]


def test_transposed_convolution_stays_in_float_for_onnxruntime(
        make: Make, table: Callable[..., CalibrationTable], feeds: Callable[..., list[dict[str, np.ndarray]]],
        chosen: Callable[..., list[str]]) -> None:
    model = make("""g (float[1,4,4,4] x) => (float[1,4,8,8] y) {
        a = Conv(x, w)\n t = ConvTranspose<strides=[2,2]>(a, k)\n y = Conv(t, w) }""", w=conv(4, 4),
                 k=np.random.default_rng(2).normal(size=(4, 4, 2, 2)))
    assert len(points(model).weights) == 3
    data = feeds(model)
    quantized, report = insert_qdq(model, table(model, data), U8, QuantSpec())
    assert report.weights == 2
    optimized = run_model(quantized, data[0])["y"]
    exact = run_model(quantized, data[0], optimize=False)["y"]
    assert "ConvTranspose" in chosen(quantized)
    np.testing.assert_allclose(optimized, exact, atol=0.02 * np.abs(exact).max())


def test_kept_node_selects_nameless_nodes_one_by_one(residual: onnx.ModelProto,
                                                     table: Callable[..., CalibrationTable],
                                                     feeds: Callable[..., list[dict[str, np.ndarray]]]) -> None:
    counted = table(residual, feeds(residual))
    for node in residual.graph.node:
        node.name = ""
    _, report = insert_qdq(residual, counted, TRT, QuantSpec(keep=NodeSelector(op_types=("Gemm",))))
    assert (report.weights, report.kept) == (2, 1)


def between(text: str, **weights: object) -> str:
    """Return a graph in which `text` turns the integer tensor `a` into `s`, which a convolution reads."""
    return f"g (float[1,4,6,6] x) => (float[A,B,C,D] y) {{ a = Conv(x, w1)\n {text}\n y = Conv(s, w1) }}"


@pytest.mark.parametrize(("text", "kernels"), [
    pytest.param("s = HardSwish(a)", ["QLinearLeakyRelu", "QLinearMul"], id="hardswish"),
    pytest.param("g = Sigmoid(a)\n s = Mul(g, a)", ["QLinearMul", "QLinearSigmoid"], id="silu"),
    pytest.param("s = LeakyRelu<alpha=0.1>(a)", ["QLinearLeakyRelu"], id="leaky"),
    pytest.param("h = HardSwish(a)\n s = Add(h, number)", ["QLinearLeakyRelu", "QLinearMul"], id="hardswish-shift"),
    pytest.param("b = Conv(a, w1)\n t = Add(a, b)\n s = Add(t, number)", ["QLinearAdd", "QLinearAdd", "QLinearConv"],
                 id="number"),
    pytest.param("b = Conv(a, w1)\n t = Mul(a, b)\n s = Mul(minus, t)", ["QLinearConv", "QLinearMul", "QLinearMul"],
                 id="negative-number"),
    pytest.param("s = Resize(a, , scales)", ["Resize"], id="resize-nearest"),
    pytest.param("b, s = Split<axis=0>(a)\n z = Neg(b)", ["Split"], id="split"),
    pytest.param("b = Concat<axis=1>(a, a)\n s = Slice(b, two, six4, one)", ["QLinearConcat", "Slice"], id="slice"),
    pytest.param("b = DepthToSpace<blocksize=2>(a)\n s = Tile(b, repeats)", ["DepthToSpace", "Tile"], id="tile"),
])
def test_onnxruntime_computes_glue_in_integers(
        make: Make, table: Callable[..., CalibrationTable], feeds: Callable[..., list[dict[str, np.ndarray]]],
        chosen: Callable[..., list[str]], text: str, kernels: list[str]) -> None:
    batch = "2" if "Split" in text else "1"
    model = make(between(text).replace("float[1,4,6,6]", f"float[{batch},4,6,6]"), number=np.array([-0.7]),
                 w1=np.eye(4).reshape(4, 4, 1, 1) + conv(4, 4) / 8, minus=np.array([-1.5]), one=np.array([1]),
                 scales=np.array([1.0, 1, 2, 2]).astype(np.float32), two=np.array([2]), six4=np.array([6]),
                 repeats=np.array([1, 4, 1, 1]))
    data = feeds(model, scale=2.0, count=12)
    quantized, _ = insert_qdq(model, table(model, data), U8, QuantSpec())
    operators = chosen(quantized)
    assert sorted([*kernels, "QLinearConv", "QLinearConv"]) == sorted(
        op for op in operators if op.startswith("QLinear") or op in kernels)
    assert not {"Conv", "Add", "Mul", "HardSigmoid", "Sigmoid", "LeakyRelu"} & set(operators)
    expected, actual = run_model(model, data[0])["y"], run_model(quantized, data[0])["y"]
    assert np.abs(actual - expected).max() < 0.06 * np.abs(expected).max()


@pytest.mark.parametrize(("text", "floats"), [
    pytest.param("p = GlobalAveragePool(a)\n c = Conv(p, w1)\n g = HardSigmoid(c)\n s = Mul(a, g)",
                 {"HardSigmoid", "Mul"}, id="squeeze-and-excitation"),
    pytest.param("g = Sigmoid(a)\n s = Neg(g)", {"Sigmoid"}, id="sigmoid"),
    pytest.param("g = Sigmoid(a)\n t = Mul(g, a)\n n = Neg(g)\n s = Add(t, n)", {"Sigmoid", "Mul"},
                 id="gate-read-twice"),
    pytest.param("s = Resize<mode=\"linear\">(a, , scales)", {"Resize"}, id="resize-linear"),
    pytest.param("b = Conv(a, w1)\n t = Add(a, b)\n s = Add(t, vector)", {"Add"}, id="vector"),
    pytest.param("n = Neg(a)\n s = Softmax<axis=1>(n)", {"Softmax"}, id="softmax"),
    pytest.param("s = Gelu(a)", {"Gelu"}, id="gelu"),
])
def test_onnxruntime_leaves_other_glue_in_float(
        make: Make, table: Callable[..., CalibrationTable], feeds: Callable[..., list[dict[str, np.ndarray]]],
        chosen: Callable[..., list[str]], text: str, floats: set[str]) -> None:
    model = make(between(text), opset=20, w1=np.eye(4).reshape(4, 4, 1, 1) + conv(4, 4) / 8,
                 scales=np.array([1.0, 1, 2, 2]).astype(np.float32), vector=np.arange(1, 5.0).reshape(1, 4, 1, 1))
    data = feeds(model, scale=2.0)
    quantized, _ = insert_qdq(model, table(model, data), U8, QuantSpec())
    assert floats <= set(chosen(quantized))
    expected, actual = run_model(model, data[0])["y"], run_model(quantized, data[0])["y"]
    assert np.abs(actual - expected).max() < 0.06 * np.abs(expected).max()


def test_hardswish_of_a_kept_node_stays_in_float(make: Make, table: Callable[..., CalibrationTable],
                                                 feeds: Callable[..., list[dict[str, np.ndarray]]],
                                                 chosen: Callable[..., list[str]]) -> None:
    model = make(between("s = HardSwish(a)"), w1=conv(4, 4))
    spec = QuantSpec(keep=NodeSelector(op_types=("HardSwish",)))
    quantized, report = insert_qdq(model, table(model, feeds(model)), U8, spec)
    assert report.kept == 1
    assert "QLinearMul" not in chosen(quantized)


def test_first_and_last_layers_stay_in_float_by_option(residual: onnx.ModelProto,
                                                       table: Callable[..., CalibrationTable],
                                                       feeds: Callable[..., list[dict[str, np.ndarray]]]) -> None:
    assert end_layers(GraphIndex(residual)) == {"Conv_0", "Gemm_7"}
    counted = table(residual, feeds(residual))
    for placement in (TRT, U8):
        weights = [insert_qdq(residual, counted, placement, QuantSpec(ends=ends))[1].weights for ends in (True, False)]
        assert weights == [3, 1]


def test_there_are_no_ends_without_layers(make: Make) -> None:
    assert end_layers(GraphIndex(make("g (float[2] x) => (float[2] y) { y = Relu(x) }"))) == set()


def scale_of(model: onnx.ModelProto, tensor: str) -> float:
    (scale,) = (t for t in model.graph.initializer if t.name == f"{tensor}_scale")
    return float(onnx.numpy_helper.to_array(scale))


@pytest.mark.parametrize(("gain", "shared"), [pytest.param(0.8, True, id="alike"),
                                              pytest.param(0.1, False, id="unlike")])
def test_inputs_of_a_concat_share_its_scale_on_tensorrt_where_they_are_alike(
        make: Make, table: Callable[..., CalibrationTable], feeds: Callable[..., list[dict[str, np.ndarray]]],
        gain: float, shared: bool) -> None:
    model = make("""g (float[1,4,6,6] x) => (float[1,4,6,6] y, float[1,4,6,6] z) {
        a = Neg(x)\n b = Mul(x, gain)\n z = Conv(b, w)\n c = Concat<axis=1>(a, b)\n y = Conv(c, v) }""", gain=gain,
                 w=conv(4, 4), v=conv(8, 4))
    data = feeds(model)
    quantized, _ = insert_qdq(model, table(model, data), TRT, QuantSpec())
    assert (scale_of(quantized, "b") == scale_of(quantized, "c")) is shared
    for name, value in run_model(model, data[0]).items():
        error = run_model(quantized, data[0], optimize=False)[name] - value
        assert np.abs(error).max() < 0.03 * np.abs(value).max()


def test_pooling_shares_the_scale_of_its_input_on_tensorrt(make: Make, table: Callable[..., CalibrationTable],
                                                           feeds: Callable[..., list[dict[str, np.ndarray]]]) -> None:
    text = """g (float[1,4,6,6] x) => (float[1,4,6,6] y, float[A,B,C,D] z) {{
        y = Conv(x, w)\n p = {}<kernel_shape=[2,2],strides=[2,2]>(x)\n z = Conv(p, w) }}"""
    for pool, shared in (("MaxPool", True), ("AveragePool", False)):
        model = make(text.format(pool), w=conv(4, 4))
        quantized, _ = insert_qdq(model, table(model, feeds(model)), TRT, QuantSpec())
        assert (scale_of(quantized, "p") == scale_of(quantized, "x")) is shared


def test_attention_runs_its_layers_in_integers_and_its_products_in_float(
        make: Make, table: Callable[..., CalibrationTable], feeds: Callable[..., list[dict[str, np.ndarray]]],
        chosen: Callable[..., list[str]]) -> None:
    rng = np.random.default_rng(0)
    model = make("""g (float[2,6,8] x) => (float[2,6,8] y) {
        q = MatMul(x, wq)\n k = MatMul(x, wk)\n t = Transpose<perm=[0,2,1]>(k)\n s = MatMul(q, t)
        p = Softmax(s)\n a = MatMul(p, x)\n y = MatMul(a, wo) }""",
                 **{name: rng.normal(size=(8, 8)) / 4 for name in ("wq", "wk", "wo")})
    data = feeds(model)
    quantized, report = insert_qdq(model, table(model, data), U8, QuantSpec())
    operators = chosen(quantized)
    assert (report.weights, sum("MatMul" in operator for operator in operators)) == (3, 5)
    assert operators.count("MatMulIntegerToFloat") == 3
    assert "QLinearSoftmax" not in operators
    expected, actual = run_model(model, data[0])["y"], run_model(quantized, data[0])["y"]
    assert np.abs(actual - expected).max() < 0.06 * np.abs(expected).max()
