"""Every target in every precision, up to TensorRT's own builder."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import onnx
import pytest

from trtkit.build import BuildOptions, build_plan
from trtkit.errors import AccuracyError, CalibrationError, SpecError
from trtkit.graph import model_bytes, run_model
from trtkit.precision import NodeSelector, Precision, QuantSpec
from trtkit.quant import PLACEMENTS, Lowered, check_lowered, lower
from trtkit.ranges import CalibrationTable
from trtkit.ranges.cache import parse_cache
from trtkit.target import get_target, load_targets

Make = Callable[..., onnx.ModelProto]
Table = Callable[..., CalibrationTable]
MakeFeeds = Callable[..., list[dict[str, np.ndarray]]]

LINEAR = (Precision.INT8_DYNAMIC, Precision.INT4)  # refused on CPUs for this net, whose one product is too narrow
PAIRS = [pytest.param(name, precision, id=f"{name}-{precision.value}")
         for name, target in load_targets().items() for precision in target.precisions
         if target.is_tensorrt or precision not in LINEAR]
IMPOSSIBLE = [pytest.param(name, precision, id=f"{name}-{precision.value}") for name, target in load_targets().items()
              for precision in Precision if precision not in target.precisions]


@pytest.fixture
def lowered(residual: onnx.ModelProto, table: Table, feeds: MakeFeeds) -> Callable[[str, Precision], Lowered]:
    counted = table(residual, feeds(residual, count=16))
    return lambda target, precision: lower(residual, get_target(target), precision, table=counted)


def operators(data: bytes) -> set[str]:
    return {node.op_type for node in onnx.load_from_string(data).graph.node}


def test_every_target_has_a_placement() -> None:
    assert {target.placement for target in load_targets().values()} <= set(PLACEMENTS)


@pytest.mark.parametrize(("target", "precision"), PAIRS)
def test_lowering_runs_and_stays_close_to_float(lowered: Callable[[str, Precision], Lowered], target: str,
                                                precision: Precision, residual: onnx.ModelProto,
                                                feeds: MakeFeeds) -> None:
    result = lowered(target, precision)
    assert (result.target, result.precision) == (target, precision)
    onnx.checker.check_model(result.model, full_check=True)
    check = check_lowered(model_bytes(residual), result, feeds(residual), smallest_cosine=0.98)
    assert check.worst == "y"
    assert check.cosine > {Precision.FP32: 0.9999, Precision.FP16: 0.9999, Precision.BF16: 0.999}.get(precision, 0.98)
    static = {Precision.INT8} if target == "rtx" else {Precision.INT8, Precision.INT8_FP16}
    assert ("QuantizeLinear" in operators(result.simulation)) is (precision in static)  # too small for the others
    half = precision is not Precision.INT8 and precision is not Precision.FP32 and get_target(target).is_tensorrt
    assert ("Cast" in operators(result.simulation)) is half


@pytest.mark.parametrize(("target", "precision"), IMPOSSIBLE)
def test_lowering_fails_clearly_when_the_target_lacks_the_precision(lowered: Callable[[str, Precision], Lowered],
                                                                    target: str, precision: Precision) -> None:
    with pytest.raises(SpecError, match=rf"'{target}' .* does not run {re.escape(precision.value)}.*\. It runs: "):
        lowered(target, precision)


def test_lowering_to_int8_fails_clearly_without_a_table(residual: onnx.ModelProto) -> None:
    with pytest.raises(CalibrationError, match="int8 for target 'rtx' needs a calibration table"):
        lower(residual, get_target("rtx"), Precision.INT8)


@pytest.mark.parametrize("precision", [Precision.FP16, Precision.INT8])
def test_lowering_fails_clearly_when_a_selector_matches_nothing(residual: onnx.ModelProto, table: Table,
                                                                feeds: MakeFeeds, precision: Precision) -> None:
    spec = QuantSpec(keep=NodeSelector(op_types=("Softmax",)))
    with pytest.raises(SpecError, match="'Softmax' matches no node's operator"):
        lower(residual, get_target("rtx"), precision, table=table(residual, feeds(residual)), spec=spec)


@pytest.mark.parametrize("precision", get_target("rtx").precisions)
def test_tensorrt_builds_every_strongly_typed_lowering(lowered: Callable[[str, Precision], Lowered],
                                                       precision: Precision) -> None:
    strong = [name for name, target in load_targets().items()
              if target.typing == "strong" and precision in target.precisions]
    models = {lowered(name, precision).model for name in strong}
    assert len(models) == (2 if precision is Precision.INT8_FP16 else 1)  # so these builds speak for them all
    for model in models:
        assert build_plan(model, BuildOptions.for_target(get_target("rtx"), precision)).data[:4] == b"vtrt"


@pytest.mark.parametrize("precision", [each for each in get_target("rtx").precisions if each is not Precision.FP32])
def test_tensorrt_builds_every_kind_of_layer(make: Make, table: Table, feeds: MakeFeeds, precision: Precision) -> None:
    rng = np.random.default_rng(0)
    model = make("""g (float[1,4,8,8] x) => (float[1,6] y, float[1,64,16,16] z) {
        a = Conv<pads=[1,1,1,1]>(x, w)
        r = Clip(a, zero, six)
        d = Conv<group=64,pads=[1,1,1,1]>(r, wd, b)
        e = Conv<group=4>(d, wg)
        s = Add(e, r)
        h = HardSwish(s)
        t = ConvTranspose<strides=[2,2]>(h, wt)
        u = Resize(t, , scales)
        v = ConvTranspose<strides=[2,2],group=2>(h, wu)
        z = Conv(v, wz)
        p = GlobalAveragePool(u)
        f = Flatten(p)
        g = Gemm(f, g1, row)
        m = MatMul(g, g2)
        n = Softmax(m)
        y = Gemm<transB=1>(n, g3) }""", w=rng.normal(size=(64, 4, 3, 3)), wd=rng.normal(size=(64, 1, 3, 3)),
                 b=rng.normal(size=64), wg=rng.normal(size=(64, 16, 1, 1)) / 4, wt=rng.normal(size=(64, 8, 2, 2)) / 8,
                 wu=rng.normal(size=(64, 4, 2, 2)) / 8, wz=rng.normal(size=(64, 8, 1, 1)), zero=0.0, six=6.0,
                 scales=np.array([1.0, 1, 2, 2]), g1=rng.normal(size=(8, 8)), row=np.ones((1, 8)),
                 g2=rng.normal(size=(8, 8)), g3=rng.normal(size=(6, 8)))
    data = feeds(model)
    result = lower(model, get_target("trt11"), precision, table=table(model, data))
    check_lowered(model_bytes(model), result, data, smallest_cosine=0.97)
    assert build_plan(result.model, BuildOptions.for_target(get_target("rtx"), precision)).data[:4] == b"vtrt"


@pytest.mark.parametrize(("target", "header"), [
    pytest.param("jetson-xavier-jp5", b"TRT-850", id="jp5"),
    pytest.param("orin-dla", b"TRT-1003", id="dla"),
])
def test_weak_int8_is_plain_onnx_with_a_cache_for_each_of_its_tensors(lowered: Callable[[str, Precision], Lowered],
                                                                      residual: onnx.ModelProto, target: str,
                                                                      header: bytes) -> None:
    result = lowered(target, Precision.INT8)
    assert operators(result.model) == {node.op_type for node in residual.graph.node}
    assert result.cache is not None
    assert result.cache.startswith(header)
    scales = parse_cache(result.cache)
    assert set(scales) == {"x", *(name for node in residual.graph.node for name in node.output)}
    assert all(scale > 0 for scale in scales.values())
    assert scales["a"] == scales["r"]


def test_weak_lowering_says_that_the_board_may_not_keep_a_layer(residual: onnx.ModelProto, table: Table,
                                                                feeds: MakeFeeds) -> None:
    counted = table(residual, feeds(residual, count=4))
    for keep, said in ((NodeSelector(op_types=("Add",)), True), (NodeSelector(), False)):
        result = lower(residual, get_target("jetson-xavier-jp5"), Precision.INT8, table=counted,
                       spec=QuantSpec(keep=keep))
        assert any("may run in INT8 on the board" in note for note in result.notes) is said


def test_weak_fp16_is_plain_onnx_without_a_cache(lowered: Callable[[str, Precision], Lowered]) -> None:
    result = lowered("jetson-xavier-jp5", Precision.FP16)
    assert result.cache is None
    assert "Cast" not in operators(result.model)


def test_lowering_raises_the_opset_of_an_old_model(make: Make, table: Table, feeds: MakeFeeds) -> None:
    model = make("g (float[1,4,4,4] x) => (float[1,4,4,4] y) { c = Conv(x, w)\n y = Clip<max=6.0,min=0.0>(c) }",
                 opset=10, w=np.random.default_rng(0).normal(size=(4, 4, 1, 1)))
    data = feeds(model)
    for target in ("rtx", "x86-vnni"):
        result = lower(model, get_target(target), Precision.INT8, table=table(model, data))
        assert onnx.load_from_string(result.model).opset_import[0].version >= 13
        check_lowered(model_bytes(model), result, data, smallest_cosine=0.98)


@pytest.mark.parametrize(("value", "says"), [
    pytest.param(np.nan, "output 'y' is not finite", id="nan"),
    pytest.param(-1.0, "output 'y' has a cosine of -1.0000 with FP32, below 0.9", id="sign"),
])
def test_check_lowered_names_the_output_when_it_is_wrong(make: Make, value: float, says: str) -> None:
    model, wrong = (make("g (float[4] x) => (float[4] y) { y = Mul(x, k) }", k=k) for k in (1.0, value))
    result = Lowered("rtx", Precision.FP16, model_bytes(wrong), model_bytes(wrong))
    with pytest.raises(AccuracyError, match=says):
        check_lowered(model_bytes(model), result, [{"x": np.ones(4, np.float32)}])


def test_float_weights_between_dq_and_q_stay_right_in_a_run_as_written(make: Make, feeds: MakeFeeds) -> None:
    """Why Lowered.as_written exists, 1: with optimizations on, such weights are rounded to INT8 with a single scale."""
    spread = 10.0 ** np.linspace(-3, 1, 4)
    model = make("""g (float[1,4,6,6] x) => (float[1,4,6,6] y) {
        xq = QuantizeLinear(x, s, zp)\n xd = DequantizeLinear(xq, s, zp)
        c = Conv<group=4>(xd, w)
        a = Clip(c, zero, six)
        q = QuantizeLinear(a, t, zp)\n y = DequantizeLinear(q, t, zp) }""", s=30 / 127, t=6 / 127, zp=np.int8(0),
                 zero=0.0, six=6.0, w=spread.reshape(4, 1, 1, 1))
    feed = feeds(model, scale=8.0)[0]
    rounded = np.clip(np.rint(feed["x"] * 127 / 30), -128, 127) * 30 / 127
    expected = np.clip(rounded * spread.reshape(1, 4, 1, 1), 0, 6)
    np.testing.assert_allclose(run_model(model, feed, optimize=False)["y"], expected, atol=0.55 * 6 / 127)
    if np.abs(run_model(model, feed)["y"] - expected).max() < 2 * 6 / 127:
        pytest.skip("this ONNX Runtime leaves float weights alone")


@pytest.mark.parametrize("target", ["rtx", "jetson-xavier-jp5", "orin-dla"])
def test_tensorrt_lowerings_are_simulated_as_written(lowered: Callable[[str, Precision], Lowered],
                                                     target: str) -> None:
    assert lowered(target, Precision.INT8).as_written
    assert not lowered("x86-vnni", Precision.INT8).as_written


def test_large_bias_over_tiny_weights_stays_right_in_a_run_as_written(make: Make, table: Table,
                                                                     feeds: MakeFeeds) -> None:
    """Why Lowered.as_written exists, 2: with optimizations on, the float bias becomes INT32 steps of s_x * s_w.

    They overflow where a channel is all but dead: 0 comes out instead of 3. In TensorRT the bias is float.
    """
    weight = np.random.default_rng(0).normal(size=(4, 4, 1, 1)) * np.array([1e-12, 1, 1, 1]).reshape(4, 1, 1, 1)
    model = make("""g (float[1,4,6,6] x) => (float[1,4,6,6] y) {
        c = Conv(x, w, b)\n a = Clip(c, zero, six)\n y = Conv(a, e) }""", w=weight, b=np.array([3.0, 0, 0, 0]),
                 zero=0.0, six=6.0, e=np.eye(4).reshape(4, 4, 1, 1))
    data = feeds(model)
    result = lower(model, get_target("rtx"), Precision.INT8, table=table(model, data))
    np.testing.assert_allclose(run_model(result.simulation, data[0], optimize=False)["y"][:, 0], 3.0, atol=0.05)
    check_lowered(model_bytes(model), result, data, smallest_cosine=0.999)
    if np.abs(run_model(result.simulation, data[0])["y"][:, 0] - 3.0).max() < 0.1:
        pytest.skip("this ONNX Runtime keeps the bias in range")
