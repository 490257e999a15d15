"""Layers that are to stay in float between quantized ones, in ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from trtkit.graph import run_model
from trtkit.precision import NodeSelector, QuantSpec
from trtkit.quant.index import GraphIndex
from trtkit.quant.placement import get_placement
from trtkit.quant.static.qdq import insert_qdq
from trtkit.quant.static.shield import endangered_bias, exact_steps
from trtkit.ranges import CalibrationTable

Make = Callable[..., onnx.ModelProto]


@settings(deadline=None)
@given(hnp.arrays(np.float32, 4, elements=st.floats(-(2.0**100), 2.0**100, width=32, allow_subnormal=False)))
def test_exact_steps_give_the_bias_bit_by_bit(bias: np.ndarray) -> None:
    steps, scale = exact_steps(bias)
    assert steps.dtype == np.int32
    assert (scale >= np.finfo(np.float32).tiny).all()
    assert (np.abs(steps) <= 2**24).all()
    large = np.abs(bias) >= 2.0**-102
    np.testing.assert_array_equal((steps.astype(np.float32) * scale)[large], bias[large])
    np.testing.assert_allclose(steps * scale, bias, atol=2.0**-126)


@pytest.mark.parametrize(("node", "shape", "expected"), [
    pytest.param("Conv(x, w)", (6, 4, 1, 1), np.zeros(6), id="conv"),
    pytest.param("Conv(x, w, b)", (6, 4, 1, 1), np.arange(6.0), id="conv-bias"),
    pytest.param("ConvTranspose<group=2>(x, w)", (4, 3, 1, 1), np.zeros(6), id="transposed-grouped"),
    pytest.param("Gemm(r, w)", (4, 6), np.zeros(6), id="gemm"),
    pytest.param("Gemm<transB=1>(r, w)", (6, 4), np.zeros(6), id="gemm-transB"),
    pytest.param("Gemm(r, w, row)", (4, 6), None, id="gemm-row"),
    pytest.param("MatMul(r, w)", (4, 6), None, id="matmul"),
    pytest.param("Conv(x, v)", (1,), None, id="computed-weight"),
])
def test_endangered_bias_is_there_when_onnxruntime_would_round_the_layer(
        make: Make, node: str, shape: tuple[int, ...], expected: np.ndarray | None) -> None:
    model = make(f"g (float[1,4,4,4] x, float[1,4] r, float[6,4,1,1] v) => (float[N] y) {{ y = {node} }}",
                 w=np.ones(shape), b=np.arange(6.0), row=np.ones((1, 6)))
    bias = endangered_bias(GraphIndex(model), model.graph.node[0])
    assert (bias is None) == (expected is None)
    if expected is not None:
        np.testing.assert_array_equal(bias, expected)


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no-bias"])
@pytest.mark.parametrize("placement", ["onnxruntime-u8", "onnxruntime-s8"])
def test_kept_layer_computes_with_its_own_weights_when_its_neighbours_are_quantized(
        make: Make, table: Callable[..., CalibrationTable], feeds: Callable[..., list[dict[str, np.ndarray]]],
        chosen: Callable[..., list[str]], rng: np.random.Generator, placement: str, bias: bool) -> None:
    spread = 10.0 ** np.linspace(-2, 1, 8).reshape(-1, 1, 1, 1)
    model = make(f"""g (float[1,8,6,6] x) => (float[1,8,6,6] y) {{
        a = Conv(x, w, b)\n r = Relu(a)
        c = Conv<group=8,pads=[1,1,1,1]>(r, d{', b' if bias else ''})\n s = Relu(c)
        y = Conv(s, w, b) }}""", w=rng.normal(size=(8, 8, 1, 1)), b=rng.normal(size=8),
                 d=rng.normal(size=(8, 1, 3, 3)) * spread)
    data = feeds(model)
    quantized, report = insert_qdq(model, table(model, data), get_placement(placement),
                                   QuantSpec(keep=NodeSelector(names=("Conv_2",))))
    assert (report.kept, report.weights) == (1, 2)
    operators = chosen(quantized)
    assert operators.count("QLinearConv") == 2
    assert operators.count("Conv") + operators.count("FusedConv") == 1
    exact, optimized = (run_model(quantized, data[0], optimize=each)["y"] for each in (False, True))
    step = np.abs(exact).max() / 255
    assert np.abs(optimized - exact).max() <= 1.5 * step
    assert np.abs(optimized - exact).mean() <= 0.1 * step
