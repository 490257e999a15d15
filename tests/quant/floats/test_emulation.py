"""BF16 in float32: every tensor is a BF16 number, and nothing else changed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from onnx import TensorProto

from trtkit.graph import infer_shapes, run_model, upgrade_opset
from trtkit.precision import Precision
from trtkit.quant import lower
from trtkit.quant.floats.emulation import emulate_bf16
from trtkit.quant.floats.half import BF16
from trtkit.quant.floats.typed import BF16_OPSET, to_half
from trtkit.target import get_target

Make = Callable[..., onnx.ModelProto]
MakeFeeds = Callable[..., list[dict[str, np.ndarray]]]


def test_product_is_rounded_once(make: Make, rng: np.random.Generator) -> None:
    model = make("g (float[4,64] x) => (float[4,8] y) { y = MatMul(x, w) }", opset=BF16_OPSET,
                 w=rng.normal(size=(64, 8)))
    typed, kept = to_half(model, BF16)
    onnx.checker.check_model(typed, full_check=True)
    assert kept == {}
    x = rng.normal(size=(4, 64)).astype(np.float32)
    w = BF16.rounded(onnx.numpy_helper.to_array(model.graph.initializer[0]))
    found = run_model(emulate_bf16(typed), {"x": x})["y"]
    np.testing.assert_array_equal(found, BF16.rounded(found))
    np.testing.assert_allclose(found, BF16.rounded(BF16.rounded(x) @ w), rtol=2.0**-7)


def test_network_runs_and_the_target_gets_bf16(residual: onnx.ModelProto, feeds: MakeFeeds) -> None:
    lowered = lower(residual, get_target("rtx"), Precision.BF16)
    types = {t.data_type for t in onnx.load_from_string(lowered.model).graph.initializer}
    assert types == {TensorProto.BFLOAT16}
    simulated = onnx.load_from_string(lowered.simulation)
    assert {t.data_type for t in simulated.graph.initializer} == {TensorProto.FLOAT}
    feed = feeds(residual)[0]
    expected = run_model(residual, feed)["y"]
    error = np.abs(run_model(lowered.simulation, feed, optimize=False)["y"] - expected).max()
    assert 0 < error < 0.02 * np.abs(expected).max()


def test_casts_inside_and_float_islands_keep_their_sense(make: Make) -> None:
    model = make("""g (int64[4] i, float[4] x) => (float[4] y) {
        f = Cast<to=1>(i)\n s = Add(f, x)\n p = Softmax(s)\n y = Mul(p, s) }""")
    typed, kept = to_half(infer_shapes(upgrade_opset(model, BF16_OPSET)), BF16)
    assert kept == {"Softmax_2": "Softmax needs range or digits"}
    feed = {"i": np.arange(4), "x": np.linspace(0, 1, 4, dtype=np.float32)}
    np.testing.assert_allclose(run_model(emulate_bf16(typed), feed)["y"], run_model(model, feed)["y"], rtol=0.03)
