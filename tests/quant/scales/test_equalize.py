"""Equalization changes no output, and saves the depthwise net whose channels differ a hundredfold."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import onnx
import pytest

from trtkit.graph import run_model
from trtkit.metrics import sqnr_db
from trtkit.precision import Precision, QuantSpec
from trtkit.quant import lower
from trtkit.quant.placement import get_placement
from trtkit.quant.scales.equalize import equalize
from trtkit.quant.static.qdq import insert_qdq
from trtkit.ranges import CalibrationTable
from trtkit.ranges.cache import parse_cache
from trtkit.target import get_target

Feeds = dict[str, np.ndarray]
Make = Callable[..., onnx.ModelProto]
Table = Callable[[onnx.ModelProto, Sequence[Feeds]], CalibrationTable]
FeedsOf = Callable[..., list[Feeds]]


def badly_scaled(make: Make, rng: np.random.Generator, activation: str = "Relu({})") -> onnx.ModelProto:
    """Expand, depthwise, project, as in MobileNetV2, with channel ranges over two orders of magnitude in between."""
    spread = np.exp(rng.uniform(-2.8, 2.8, 64))
    first, second = (activation.format(name) for name in "ac")
    return make(f"""g (float[1,3,12,12] x) => (float[1,8,12,12] y) {{
        a = Conv(x, w1, b1)\n b = {first}
        c = Conv<group=64,pads=[1,1,1,1]>(b, w2, b2)\n d = {second}\n y = Conv(d, w3, b3) }}""",
                zero=np.float32(0), six=np.float32(6), w1=rng.normal(size=(64, 3, 1, 1)) * spread[:, None, None, None],
                b1=rng.normal(size=64) * spread, w2=rng.normal(size=(64, 1, 3, 3)) / spread[:, None, None, None],
                b2=rng.normal(size=64), w3=rng.normal(size=(8, 64, 1, 1)) / 8, b3=rng.normal(size=8))


@pytest.mark.parametrize("placement", ["tensorrt", "onnxruntime-u8"])
def test_equalize_saves_a_badly_scaled_depthwise_net(make: Make, table: Table, feeds: FeedsOf,
                                                     rng: np.random.Generator, placement: str) -> None:
    model = badly_scaled(make, rng)
    data = feeds(model, count=16)
    counted = table(model, data)
    rules = replace(get_placement(placement), few_products=0)  # both quantize all layers, however coarse their inputs
    expected = run_model(model, data[0])["y"]
    gains = []
    for before, ranges in ((model, counted), equalize(model, counted)[:2]):
        quantized, report = insert_qdq(before, ranges, rules, QuantSpec())
        assert report.weights == 3
        gains.append(float(sqnr_db(expected, run_model(quantized, data[0], optimize=False)["y"])))
    assert gains[1] > gains[0] + 6


def test_equalize_changes_no_output_and_evens_out_the_ranges(make: Make, table: Table, feeds: FeedsOf,
                                                             rng: np.random.Generator) -> None:
    model = badly_scaled(make, rng)
    before = model.SerializeToString()
    data = feeds(model)
    counted = table(model, data)
    equalized, ranges, count = equalize(model, counted)
    assert count == 2
    assert model.SerializeToString() == before
    np.testing.assert_allclose(run_model(equalized, data[0])["y"], run_model(model, data[0])["y"], rtol=1e-4, atol=1e-4)
    assert np.ptp(ranges.channel_ranges["b"].amax) < 1e-3 * ranges.channel_ranges["b"].amax.max()
    again = table(equalized, data)
    for tensor in ("b", "d"):
        np.testing.assert_allclose(ranges.channel_ranges[tensor].high, again.channel_ranges[tensor].high, rtol=1e-3)
        np.testing.assert_allclose(ranges.channel_means(tensor), again.channel_means(tensor), rtol=1e-3, atol=1e-4)
        assert ranges.tensors[tensor].max == pytest.approx(again.tensors[tensor].max, rel=1e-3)


def test_equalize_keeps_the_bound_of_relu6_out_of_reach(make: Make, table: Table, feeds: FeedsOf,
                                                        rng: np.random.Generator) -> None:
    model = badly_scaled(make, rng, "Clip({}, zero, six)")
    data = feeds(model)
    counted = table(model, data)
    equalized, ranges, count = equalize(model, counted)
    assert count == 2
    before, after = counted.channel_ranges["b"].amax, ranges.channel_ranges["b"].amax
    np.testing.assert_array_equal(after[before > 3], before[before > 3])
    assert (after[before <= 3] <= 3.001).all()
    assert (after[before < 1] > 1.5 * before[before < 1]).all()
    louder = {"x": data[0]["x"] * 1.4}
    np.testing.assert_allclose(run_model(equalized, louder)["y"], run_model(model, louder)["y"], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("body", [
    pytest.param("b = HardSwish(a)\n c = Conv(b, v)\n y = Relu(c)", id="not homogeneous"),
    pytest.param("b = Relu(a)\n c = Conv(b, v)\n y = Add(c, b)", id="read twice"),
    pytest.param("b = Relu(a)\n p = MaxPool<kernel_shape=[1,1]>(b)\n c = Conv(p, v)\n y = Relu(c)", id="pooled"),
    pytest.param("b = Relu(a)\n c = Conv<group=2>(b, u)\n y = Relu(c)", id="grouped"),
    pytest.param("b = Relu(a)\n c = ConvTranspose(b, v)\n y = Relu(c)", id="transposed"),
])
def test_equalize_leaves_the_model_alone_when_it_would_change(make: Make, table: Table, feeds: FeedsOf,
                                                              rng: np.random.Generator, body: str) -> None:
    model = make(f"g (float[1,3,6,6] x) => (float[1,4,6,6] y) {{ a = Conv(x, w)\n {body} }}",
                 w=rng.normal(size=(4, 3, 1, 1)), v=rng.normal(size=(4, 4, 1, 1)), u=rng.normal(size=(4, 2, 1, 1)))
    counted = table(model, feeds(model))
    equalized, ranges, count = equalize(model, counted)
    assert count == 0
    assert equalized is model
    assert ranges is counted


def test_equalize_keeps_a_shared_weight_for_its_other_reader(make: Make, table: Table, feeds: FeedsOf,
                                                             rng: np.random.Generator) -> None:
    model = make("""g (float[1,4,6,6] x) => (float[1,4,6,6] y, float[1,4,6,6] z) {
        a = Conv(x, w)\n b = Relu(a)\n y = Conv(b, v)\n z = Conv(x, v) }""",
                 w=rng.normal(size=(4, 4, 1, 1)) * np.array([1, 10, 100, 1000])[:, None, None, None],
                 v=rng.normal(size=(4, 4, 1, 1)))
    data = feeds(model)
    equalized, _, count = equalize(model, table(model, data))
    assert count == 1
    for name, value in run_model(model, data[0]).items():
        np.testing.assert_allclose(run_model(equalized, data[0])[name], value, rtol=1e-4, atol=1e-3)


def test_weak_path_ships_the_equalized_model_with_the_scales_of_its_tensors(make: Make, table: Table, feeds: FeedsOf,
                                                                            rng: np.random.Generator) -> None:
    model = badly_scaled(make, rng)
    data = feeds(model)
    lowered = lower(model, get_target("jetson-xavier-jp5"), Precision.INT8, table=table(model, data),
                    spec=QuantSpec(equalize=True))
    assert "channel ranges of 2 tensors between convolutions equalized" in lowered.notes
    assert lowered.cache is not None
    scales = parse_cache(lowered.cache)
    shipped = run_model(onnx.ModelProto.FromString(lowered.model), data[0], ["b", "y"])
    assert 0.2 * scales["b"] * 127 < shipped["b"].max() <= 1.01 * scales["b"] * 127
    np.testing.assert_allclose(shipped["y"], run_model(model, data[0])["y"], rtol=1e-4, atol=1e-4)
