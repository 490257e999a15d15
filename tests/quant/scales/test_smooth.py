"""Smoothing changes no output, and saves the transformer whose normalization has outlier channels."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx
import pytest

from trtkit.graph import run_model
from trtkit.metrics import sqnr_db
from trtkit.precision import Precision, QuantSpec
from trtkit.quant import lower
from trtkit.quant.scales.smooth import smooth
from trtkit.ranges import CalibrationTable
from trtkit.target import get_target

Feeds = dict[str, np.ndarray]
Make = Callable[..., onnx.ModelProto]
Table = Callable[[onnx.ModelProto, Sequence[Feeds]], CalibrationTable]
FeedsOf = Callable[..., list[Feeds]]


def outlier_channels(make: Make, rng: np.random.Generator) -> onnx.ModelProto:
    """Pre-norm feed-forward and a Gemm, in which three channels behind the normalization are 60 times as wide."""
    gain = np.exp(rng.normal(size=32) / 4)
    gain[[3, 11, 20]] *= 60
    quiet = np.where(gain > 10, 1 / 60, 1.0)[:, None]
    return make("""g (float[24,32] x) => (float[24,8] y) {
        n = LayerNormalization(x, g, b)\n q = MatMul(n, w1)\n k = Gemm<transB=1>(n, w2, b2)
        s = Add(q, k)\n r = Relu(s)\n y = MatMul(r, w3) }""",
                g=gain, b=rng.normal(size=32), w1=rng.normal(size=(32, 48)) * quiet,
                w2=(rng.normal(size=(32, 48)) * quiet).T, b2=rng.normal(size=48), w3=rng.normal(size=(48, 8)))


@pytest.mark.parametrize("target", ["rtx", "x86-vnni"])
def test_smooth_saves_a_transformer_with_outlier_channels(make: Make, table: Table, feeds: FeedsOf,
                                                          rng: np.random.Generator, target: str) -> None:
    model = outlier_channels(make, rng)
    data = feeds(model, count=16)
    counted = table(model, data)
    gains = []
    for spec in (QuantSpec(), QuantSpec(smoothing=0.5)):
        lowered = lower(model, get_target(target), Precision.INT8, table=counted, spec=spec)
        expected, actual = (run_model(each, data[0], optimize=False)["y"] for each in (model, lowered.simulation))
        gains.append(float(sqnr_db(expected, actual)))
    assert gains[1] > gains[0] + 6
    assert any("moved into weights" in note for note in lowered.notes)


@pytest.mark.parametrize("alpha", [0.3, 0.5, 1.0])
def test_smooth_changes_no_output_and_knows_the_new_ranges(make: Make, table: Table, feeds: FeedsOf,
                                                           rng: np.random.Generator, alpha: float) -> None:
    model = outlier_channels(make, rng)
    before = model.SerializeToString()
    data = feeds(model)
    counted = table(model, data)
    smoothed, ranges, count = smooth(model, counted, alpha)
    assert count == 1
    assert model.SerializeToString() == before
    np.testing.assert_allclose(run_model(smoothed, data[0])["y"], run_model(model, data[0])["y"], rtol=1e-3, atol=1e-2)
    again = table(smoothed, data)
    np.testing.assert_allclose(ranges.channel_ranges["n"].high, again.channel_ranges["n"].high, rtol=1e-3)
    assert ranges.tensors["n"].amax == pytest.approx(again.tensors["n"].amax, rel=1e-3)

    def width(each: CalibrationTable) -> float:
        amax = each.channel_ranges["n"].amax
        return float(amax.max() / np.median(amax))

    assert width(ranges) < width(counted) / 3


@pytest.mark.parametrize("body", [
    pytest.param("n = LayerNormalization(x, g, b)\n q = MatMul(n, w)\n y = Add(q, n)", id="residual reads it"),
    pytest.param("n = LayerNormalization(x, g, b)\n y = MatMul(n, x)", id="no constant"),
    pytest.param("n = Relu(x)\n y = MatMul(n, w)", id="no normalization"),
    pytest.param("n = LayerNormalization(x, b1, b)\n y = MatMul(n, w)", id="one scale for all"),
])
def test_smooth_leaves_the_model_alone_when_nothing_absorbs_it(make: Make, table: Table, feeds: FeedsOf,
                                                               rng: np.random.Generator, body: str) -> None:
    model = make(f"g (float[8,8] x) => (float[8,8] y) {{ {body} }}", g=rng.normal(size=8), b=rng.normal(size=8),
                 b1=rng.normal(size=1), w=rng.normal(size=(8, 8)))
    counted = table(model, feeds(model))
    smoothed, ranges, count = smooth(model, counted, 0.5)
    assert (count, smoothed, ranges) == (0, model, counted)
