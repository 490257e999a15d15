"""Q/DQ in the graph: grids, weights, biases, shared tensors, outputs, subgraphs and absorbed activations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from trtkit.errors import CalibrationError, SpecError
from trtkit.graph import run_model
from trtkit.precision import Estimator, NodeSelector, QuantSpec
from trtkit.quant.placement import get_placement
from trtkit.quant.scales.grids import activation_grid
from trtkit.quant.static.qdq import insert_qdq
from trtkit.ranges import CalibrationTable, Histogram

Make = Callable[..., onnx.ModelProto]
Table = Callable[..., CalibrationTable]
MakeFeeds = Callable[..., list[dict[str, np.ndarray]]]
MINMAX = QuantSpec(estimator=Estimator.MINMAX)
TRT, U8, S8 = (get_placement(name) for name in ("tensorrt", "onnxruntime-u8", "onnxruntime-s8"))


def histogram_table(**values: object) -> CalibrationTable:
    return CalibrationTable({name: Histogram.of(np.asarray(v)) for name, v in values.items()}, 1, "", "", "")


def nodes(model: onnx.ModelProto, op_type: str) -> list[onnx.NodeProto]:
    return [node for node in model.graph.node if node.op_type == op_type]


def constants(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


@pytest.mark.parametrize(("placement", "low", "high", "zero_point", "scale"), [
    pytest.param(TRT, -2.0, 1.0, 0, 2 / 127, id="symmetric"),
    pytest.param(U8, -1.0, 3.0, 64, 4 / 255, id="u8"),
    pytest.param(S8, -1.0, 3.0, -64, 4 / 255, id="s8"),
    pytest.param(U8, 0.0, 6.0, 0, 6 / 255, id="u8-relu"),
    pytest.param(S8, 0.5, 6.0, -128, 6 / 255, id="s8-above-0"),
    pytest.param(U8, -6.0, -1.0, 255, 6 / 255, id="u8-below-0"),
])
def test_activation_grid_covers_the_range_and_zero(placement: object, low: float, high: float, zero_point: int,
                                                   scale: float) -> None:
    grid = activation_grid(histogram_table(x=[low, high]), "x", placement, MINMAX)  # type: ignore[arg-type]
    assert grid.zero_point == zero_point
    assert grid.scale == pytest.approx(scale, rel=1e-6)
    assert grid.range[0] <= max(low, 0) + scale
    assert grid.range[1] >= high - scale


def test_activation_grid_has_a_scale_when_the_tensor_is_all_zero() -> None:
    for placement in (TRT, U8, S8):
        assert activation_grid(histogram_table(x=np.zeros(4)), "x", placement, QuantSpec()).scale > 0


def test_insert_fails_clearly_when_the_table_lacks_a_tensor(residual: onnx.ModelProto, table: Table,
                                                            feeds: MakeFeeds) -> None:
    counted = table(residual, feeds(residual))
    for name, tensors in (("gone", {k: v for k, v in counted.tensors.items() if k != "r"}),
                          ("empty", {**counted.tensors, "r": Histogram.empty()})):
        with pytest.raises(CalibrationError, match=r"no values for tensor 'r'.*trtkit calibrate"):
            insert_qdq(residual, replace(counted, tensors=tensors, data=name), TRT, QuantSpec())


def test_insert_fails_clearly_when_a_keep_selector_matches_nothing(residual: onnx.ModelProto, table: Table,
                                                                   feeds: MakeFeeds) -> None:
    with pytest.raises(SpecError, match="'/head/\\*' matches no node's name"):
        insert_qdq(residual, table(residual, feeds(residual)), TRT, QuantSpec(keep=NodeSelector(names=("/head/*",))))


@pytest.mark.parametrize(("node", "shape", "axis", "scales"), [
    pytest.param("Conv(x, w)", (6, 4, 3, 3), 0, (6,), id="conv"),
    pytest.param("Conv<group=4>(x, w)", (8, 1, 3, 3), 0, (8,), id="depthwise"),
    pytest.param("Conv<group=2>(x, w)", (6, 2, 3, 3), 0, (6,), id="grouped"),
    pytest.param("ConvTranspose(x, w)", (4, 6, 2, 2), 1, (6,), id="transposed"),
    pytest.param("ConvTranspose<group=2>(x, w)", (4, 3, 2, 2), None, (), id="transposed-grouped"),
    pytest.param("MatMul(x, m)", (8, 6), 1, (6,), id="matmul"),
])
def test_weights_are_dequantized_along_their_output_channel(make: Make, table: Table, feeds: MakeFeeds, node: str,
                                                           shape: tuple[int, ...], axis: int | None,
                                                           scales: tuple[int, ...]) -> None:
    weight = np.random.default_rng(0).normal(size=shape)
    if axis is not None:  # channels of very different size: one scale for all, or the wrong axis, would lose some
        weight *= (10.0 ** np.linspace(-3, 1, shape[axis])).reshape([-1 if i == axis else 1 for i in range(len(shape))])
    name = "m" if "MatMul" in node else "w"
    model = make(f"g (float[1,4,8,8] x) => (float[A,B,C,D] y) {{ y = {node} }}", **{name: weight})
    data = feeds(model)
    wide = replace(TRT, narrowest_depthwise=0)
    quantized, _ = insert_qdq(model, table(model, data), wide, QuantSpec())
    onnx.checker.check_model(quantized, full_check=True)
    (dequantize,) = (n for n in nodes(quantized, "DequantizeLinear") if n.input[0] == f"{name}_quantized")
    assert constants(quantized)[f"{name}_scale"].shape == scales
    assert constants(quantized)[f"{name}_quantized"].dtype == np.int8
    assert [(a.name, a.i) for a in dequantize.attribute] == ([] if axis is None else [("axis", axis)])
    restored = run_model(quantized, data[0], [f"{name}_dequantized"], optimize=False)[f"{name}_dequantized"]
    bound = np.abs(weight).max() if axis is None else np.abs(weight).max(
        axis=tuple(i for i in range(len(shape)) if i != axis), keepdims=True)
    assert (np.abs(restored - weight) <= 0.31 * bound).all()
    assert np.abs((restored - weight) / bound).mean() < 0.004
    expected, actual = (run_model(m, data[0], optimize=False)["y"] for m in (model, quantized))
    assert np.abs(expected - actual).max() < 0.02 * np.abs(expected).max()


@pytest.mark.parametrize("transposed", [0, 1])
@pytest.mark.parametrize("placement", [TRT, U8], ids=["tensorrt", "u8"])
def test_gemm_is_dequantized_along_its_columns(make: Make, table: Table, feeds: MakeFeeds, transposed: int,
                                               placement: object) -> None:
    weight = np.random.default_rng(0).normal(size=(8, 5)) * 10.0 ** np.linspace(-3, 1, 5)
    model = make(f"g (float[2,8] x) => (float[2,5] y) {{ y = Gemm<transB={transposed}>(x, w, b) }}",
                 w=weight.T if transposed else weight, b=np.arange(5.0))
    data = feeds(model)
    quantized, _ = insert_qdq(model, table(model, data), placement, QuantSpec())  # type: ignore[arg-type]
    dequantize = next(n for n in nodes(quantized, "DequantizeLinear") if n.input[0] == "w_quantized")
    assert [a.i for a in dequantize.attribute] == [1 - transposed]
    for optimize in (False, True):
        error = run_model(quantized, data[0], optimize=optimize)["y"] - run_model(model, data[0])["y"]
        assert (np.abs(error).max(axis=0) < 0.1 * np.abs(weight).max(axis=0) + 1e-6).all()


def test_shared_weight_is_stored_once_when_the_scales_agree_and_twice_when_not(make: Make, table: Table,
                                                                              feeds: MakeFeeds) -> None:
    text = "g (float[1,4,4,4] x) => (float[1,4,4,4] y) {{ a = Conv(x, w)\n r = Relu(a)\n y = Conv{}(r, w{}) }}"
    rng = np.random.default_rng(0)
    weights = {"w": rng.normal(size=(4, 4, 1, 1)), "b": np.array([1e9, 0, 0, 0])}
    for bias, copies in (("", 1), (", b", 2)):
        model = make(text.format("", bias), **weights)
        quantized, report = insert_qdq(model, table(model, feeds(model)), U8, replace(MINMAX, bias_correction=False))
        first, second = (node.input[1] for node in nodes(quantized, "Conv"))
        assert (len({first, second}), report.weights) == (copies, 2)
        onnx.checker.check_model(quantized, full_check=True)


def test_shared_weight_is_stored_for_each_axis(make: Make, table: Table, feeds: MakeFeeds) -> None:
    weight = np.random.default_rng(0).normal(size=(4, 4))
    weight += weight.T  # the scales of rows and columns agree
    model = make("g (float[2,4] x) => (float[2,4] y) { a = Gemm(x, w)\n y = Gemm<transB=1>(a, w) }", w=weight)
    quantized, _ = insert_qdq(model, table(model, feeds(model)), TRT, MINMAX)
    axes = {n.output[0]: n.attribute[0].i for n in nodes(quantized, "DequantizeLinear") if n.attribute}
    assert [axes[node.input[1]] for node in nodes(quantized, "Gemm")] == [1, 0]


@pytest.mark.parametrize("placement", [TRT, U8], ids=["tensorrt", "u8"])
def test_all_zero_channel_gives_its_bias(make: Make, table: Table, feeds: MakeFeeds, placement: object) -> None:
    weight = np.random.default_rng(0).normal(size=(3, 4, 1, 1))
    weight[1] = 0
    model = make("g (float[1,4,4,4] x) => (float[1,3,4,4] y) { y = Conv(x, w, b) }", w=weight, b=np.array([1., 2, 3]))
    data = feeds(model)
    quantized, _ = insert_qdq(model, table(model, data), placement, QuantSpec())  # type: ignore[arg-type]
    result = run_model(quantized, data[0])["y"]
    np.testing.assert_allclose(result[:, 1], 2.0, atol=0.05)
    np.testing.assert_allclose(result, run_model(model, data[0])["y"], atol=0.15)


def test_huge_bias_fits_into_int32_when_the_weights_are_tiny(make: Make, table: Table, feeds: MakeFeeds) -> None:
    weight = np.random.default_rng(0).normal(size=(2, 4, 1, 1)) * np.array([1e-9, 1.0]).reshape(2, 1, 1, 1)
    model = make("g (float[1,4,4,4] x) => (float[1,2,4,4] y) { y = Conv(x, w, b) }", w=weight, b=np.array([50.0, 0.1]))
    data = feeds(model, scale=1e-3)
    quantized, _ = insert_qdq(model, table(model, data), U8, QuantSpec())
    steps = constants(quantized)["y_bias_quantized"]
    assert steps.dtype == np.int32
    assert 2**29 < steps[0] <= 2**30 + 2**20
    for optimize in (True, False):
        np.testing.assert_allclose(run_model(quantized, data[0], optimize=optimize)["y"][:, 0], 50.0, rtol=0.01)


@pytest.mark.parametrize(("placement", "kind"), [(TRT, np.float32), (U8, np.int32)], ids=["tensorrt", "u8"])
def test_conv_without_bias_gets_one_from_the_correction(make: Make, table: Table, feeds: MakeFeeds, placement: object,
                                                        kind: type) -> None:
    model = make("g (float[1,4,4,4] x) => (float[1,4,4,4] y) { y = Conv(x, w) }",
                 w=np.random.default_rng(0).normal(size=(4, 4, 1, 1)))
    counted = table(model, feeds(model, mean=1.0))
    for correct in (True, False):
        quantized, _ = insert_qdq(model, counted, placement, QuantSpec(bias_correction=correct))  # type: ignore[arg-type]
        assert len(nodes(quantized, "Conv")[0].input) == (3 if correct else 2)
        found = [name for name, value in constants(quantized).items() if "bias" in name and value.dtype == kind]
        assert bool(found) is correct


def test_bias_keeps_its_bits_on_tensorrt_without_correction(residual: onnx.ModelProto, table: Table,
                                                            feeds: MakeFeeds) -> None:
    quantized, _ = insert_qdq(residual, table(residual, feeds(residual)), TRT, QuantSpec(bias_correction=False))
    for name in ("b1", "b2", "b3"):
        np.testing.assert_array_equal(constants(quantized)[name], constants(residual)[name])


@pytest.mark.parametrize("placement", [TRT, U8], ids=["tensorrt", "u8"])
def test_inputs_and_outputs_keep_their_names_and_order(make: Make, table: Table, feeds: MakeFeeds,
                                                       placement: object) -> None:
    model = make("g (float[1,4,4,4] x) => (float[1,4,4,4] c, float[1,4,4,4] y) { c = Conv(x, w)\n y = Conv(c, w) }",
                 w=np.random.default_rng(0).normal(size=(4, 4, 1, 1)))
    data = feeds(model)
    quantized, _ = insert_qdq(model, table(model, data), placement, QuantSpec())  # type: ignore[arg-type]
    onnx.checker.check_model(quantized, full_check=True)
    assert [i.name for i in quantized.graph.input] == ["x"]
    assert [o.name for o in quantized.graph.output] == ["c", "y"]
    expected, actual = run_model(model, data[0]), run_model(quantized, data[0])
    for name in ("c", "y"):
        np.testing.assert_allclose(actual[name], expected[name], atol=0.04 * np.abs(expected[name]).max())


@pytest.mark.parametrize("placement", [TRT, U8], ids=["tensorrt", "u8"])
@pytest.mark.parametrize("captured", ["c", "x"])
def test_what_a_subgraph_reads_stays_there(make: Make, table: Table, feeds: MakeFeeds, placement: object,
                                           captured: str) -> None:
    model = make(f"""g (float[1,4,4,4] x, bool[1] k) => (float[1,4,4,4] y) {{
        c = Conv(x, w)
        d = Conv(c, w)
        e = If(k) <then_branch = yes () => (float[1,4,4,4] u) {{ u = Neg({captured}) }},
                   else_branch = no () => (float[1,4,4,4] v) {{ v = Identity({captured}) }}>
        y = Sub(d, e) }}""", w=np.random.default_rng(0).normal(size=(4, 4, 1, 1)))
    data = [{**feed, "k": np.array([i % 2 == 0])} for i, feed in enumerate(feeds(model))]
    quantized, _ = insert_qdq(model, table(model, data), placement, QuantSpec())  # type: ignore[arg-type]
    onnx.checker.check_model(quantized, full_check=True)
    for feed in data[:2]:
        expected = run_model(model, feed)["y"]
        np.testing.assert_allclose(run_model(quantized, feed)["y"], expected, atol=0.04 * np.abs(expected).max())


def test_float_reader_of_a_quantized_input_sees_the_float_on_tensorrt(make: Make, table: Table,
                                                                     feeds: MakeFeeds) -> None:
    model = make("g (float[1,4,4,4] x) => (float[1,4,4,4] y, float[1,4,4,4] z) { y = Conv(x, w)\n z = Exp(x) }",
                 w=np.random.default_rng(0).normal(size=(4, 4, 1, 1)))
    data = feeds(model)
    for placement, same in ((TRT, True), (U8, False)):
        quantized, _ = insert_qdq(model, table(model, data), placement, QuantSpec())
        assert (nodes(quantized, "Exp")[0].input[0] == "x") is same
        expected, actual = run_model(model, data[0]), run_model(quantized, data[0])
        np.testing.assert_allclose(actual["z"], expected["z"], rtol=1e-5 if same else 0.02)
        np.testing.assert_allclose(actual["y"], expected["y"], atol=0.2)


@pytest.mark.parametrize(("activation", "absorbed"), [
    pytest.param("Relu(c)", 1, id="relu"),
    pytest.param("Clip(c, zero, six)", 1, id="relu6"),
    pytest.param("Clip(c, zero)", 1, id="clip-lower"),
    pytest.param("Clip(c, minus, one)", 0, id="clip-whose-bound-lies-between-two-steps"),
    pytest.param("Clip(c, , six)", 1, id="clip-upper"),
    pytest.param("Sigmoid(c)", 0, id="no-clipping"),
    pytest.param("Clip(c, zero, most)", 0, id="computed-bound"),
])
def test_clipping_is_absorbed_when_saturation_does_the_same(make: Make, table: Table, feeds: MakeFeeds,
                                                            activation: str, absorbed: int) -> None:
    model = make(f"""g (float[1,4,4,4] x, float most) => (float[1,4,4,4] y) {{
        c = Conv(x, w)\n r = {activation}\n y = Conv(r, w) }}""", w=np.random.default_rng(0).normal(size=(4, 4, 1, 1)),
                 zero=0.0, six=6.0, minus=-1.0, one=1.0)
    data = [{**feed, "most": np.asarray(6, np.float32)} for feed in feeds(model)]
    counted = table(model, data)
    quantized, report = insert_qdq(model, counted, U8, MINMAX)
    assert report.absorbed == absorbed
    onnx.checker.check_model(quantized, full_check=True)
    expected = run_model(model, data[0])["y"]
    np.testing.assert_allclose(run_model(quantized, data[0])["y"], expected, atol=0.05 * np.abs(expected).max())


@pytest.mark.parametrize("activation", ["Clip(c, minus, one)", "Relu(c)"])
def test_clipping_is_kept_when_the_grid_reaches_beyond_it(make: Make, feeds: MakeFeeds, activation: str) -> None:
    model = make(f"g (float[1,4,4,4] x) => (float[1,4,4,4] y) {{ c = Conv(x, w)\n y = {activation} }}",
                 w=np.random.default_rng(0).normal(size=(4, 4, 1, 1)), minus=-1.0, one=1.0)
    # a table that saw more than the activation lets through: a stale one, or a rounded zero point
    wide = histogram_table(x=[-3.0, 3.0], y=[-2.0, 5.0])
    quantized, report = insert_qdq(model, wide, U8, MINMAX)
    assert report.absorbed == 0
    feed = feeds(model)[0]
    result = run_model(quantized, feed)["y"]
    assert result.min() >= (-1.02 if "Clip" in activation else -0.02)
    np.testing.assert_allclose(result, run_model(model, feed)["y"], atol=0.15)


def test_new_tensors_evade_names_that_are_taken(make: Make, table: Table, feeds: MakeFeeds) -> None:
    rng = np.random.default_rng(0)
    model = make("""g (float[1,4,4,4] x) => (float[1,4,4,4] y) {
        c = Conv(x, w, c_bias)\n s = Mul(c, c_scale)\n x_dequantized = Add(s, c_bias2)
        t = Add(x_dequantized, w_quantized)
        y = Conv(t, w) }""", w=rng.normal(size=(4, 4, 1, 1)), c_bias=rng.normal(size=4), c_scale=3.0, x_scale=2.0,
                 c_bias2=np.ones((1, 4, 1, 1)), w_quantized=0.5)
    data = feeds(model)
    for placement in (TRT, U8):
        quantized, _ = insert_qdq(model, table(model, data), placement, QuantSpec())
        onnx.checker.check_model(quantized, full_check=True)
        expected = run_model(model, data[0])["y"]
        np.testing.assert_allclose(run_model(quantized, data[0])["y"], expected, atol=0.05 * np.abs(expected).max())


def test_weights_that_are_graph_inputs_as_well_are_no_inputs_afterwards(make: Make, table: Table,
                                                                       feeds: MakeFeeds) -> None:
    model = make("g (float[1,4,4,4] x, float[4,4,1,1] w) => (float[1,4,4,4] y) { y = Conv(x, w) }",
                 w=np.random.default_rng(0).normal(size=(4, 4, 1, 1)))
    model.ir_version = 3
    quantized, report = insert_qdq(model, table(model, feeds(model)), TRT, QuantSpec())
    assert [i.name for i in quantized.graph.input] == ["x"]
    assert report.weights == 1
    assert len(model.graph.input) == 2  # the source is as it was
    onnx.checker.check_model(quantized)


def test_following_operators_share_the_scale_of_their_source(make: Make, table: Table, feeds: MakeFeeds) -> None:
    model = make("""g (float[1,4,4,4] x) => (float[1,4] y) {
        c = Conv(x, w)\n p = MaxPool<kernel_shape=[4,4]>(c)\n f = Flatten(p)\n y = Gemm(f, g) }""",
                 w=np.random.default_rng(0).normal(size=(4, 4, 1, 1)), g=np.eye(4))
    quantized, _ = insert_qdq(model, table(model, feeds(model)), U8, QuantSpec())
    values = constants(quantized)
    assert values["c_scale"] == values["p_scale"] == values["f_scale"]
    assert values["c_zero_point"] == values["f_zero_point"]


@pytest.mark.parametrize("placement", ["tensorrt", "onnxruntime-u8", "onnxruntime-u8-7bit", "onnxruntime-s8"])
@pytest.mark.parametrize("estimator", list(Estimator))
def test_quantized_network_stays_close_to_float(residual: onnx.ModelProto, table: Table, feeds: MakeFeeds,
                                                placement: str, estimator: Estimator) -> None:
    data = feeds(residual, count=16)
    quantized, _ = insert_qdq(residual, table(residual, data), get_placement(placement), QuantSpec(estimator=estimator))
    onnx.checker.check_model(quantized, full_check=True)
    expected, actual = (np.concatenate([run_model(m, feed)["y"] for feed in data]) for m in (residual, quantized))
    assert np.abs(actual - expected).max() < 0.1 * np.abs(expected).max()


def test_tensorrt_gets_symmetric_signed_grids_only(residual: onnx.ModelProto, table: Table, feeds: MakeFeeds) -> None:
    quantized, _ = insert_qdq(residual, table(residual, feeds(residual)), TRT, QuantSpec())
    values = constants(quantized)
    for node in (*nodes(quantized, "QuantizeLinear"), *nodes(quantized, "DequantizeLinear")):
        assert len(node.input) == 3  # TensorRT 8 demands the zero point
        assert values[node.input[2]].dtype == np.int8
        assert not values[node.input[2]].any()
    add = nodes(quantized, "Add")[0]
    assert list(add.input) == ["c", "r_dequantized"]
