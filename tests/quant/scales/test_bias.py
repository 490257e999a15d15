"""The mean output error of quantized weights, held against what the layers really give."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest

from trtkit.graph import run_model
from trtkit.precision import QuantSpec
from trtkit.quant.placement import get_placement
from trtkit.quant.scales.bias import output_shift
from trtkit.quant.static.qdq import insert_qdq
from trtkit.ranges import CalibrationTable

Make = Callable[..., onnx.ModelProto]


@pytest.mark.parametrize(("node", "shape", "channels"), [
    pytest.param("Conv", (5, 4, 1, 1), 4, id="conv"),
    pytest.param("Conv", (5, 4, 3, 2), 4, id="conv-3x2"),
    pytest.param("Conv<strides=[2,2]>", (5, 4, 3, 3), 4, id="conv-strided"),
    pytest.param("Conv<group=2>", (6, 2, 3, 3), 4, id="conv-grouped"),
    pytest.param("Conv<group=4>", (8, 1, 3, 3), 4, id="conv-depthwise"),
    pytest.param("ConvTranspose<strides=[2,2]>", (4, 6, 2, 2), 4, id="transposed"),
    pytest.param("ConvTranspose<strides=[2,2],group=2>", (4, 3, 2, 2), 4, id="transposed-grouped"),
])
def test_output_shift_is_the_mean_change_when_the_input_is_constant(make: Make, rng: np.random.Generator, node: str,
                                                                   shape: tuple[int, ...], channels: int) -> None:
    weight, error = (rng.normal(size=shape).astype(np.float32) for _ in range(2))
    means = rng.normal(size=channels)
    x = np.broadcast_to(means.reshape(1, -1, 1, 1), (1, channels, 8, 8)).astype(np.float32)
    models = [make(f"g (float[1,4,8,8] x) => (float[N,C,H,W] y) {{ y = {node}(x, w) }}", w=w)
              for w in (weight, weight + error)]
    before, after = (run_model(model, {"x": x})["y"].mean(axis=(0, 2, 3)) for model in models)
    np.testing.assert_allclose(output_shift(models[0].graph.node[0], error, means), after - before, atol=1e-4)


@pytest.mark.parametrize("transposed", [0, 1])
def test_output_shift_is_exact_for_gemm(make: Make, rng: np.random.Generator, transposed: int) -> None:
    x = rng.normal(size=(64, 4)).astype(np.float32)
    error = rng.normal(size=(3, 4) if transposed else (4, 3)).astype(np.float32)
    model = make(f"g (float[64,4] x) => (float[64,3] y) {{ y = Gemm<transB={transposed}>(x, w) }}", w=error)
    mean = run_model(model, {"x": x})["y"].mean(axis=0)
    np.testing.assert_allclose(output_shift(model.graph.node[0], error, x.mean(axis=0)), mean, atol=1e-5)


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no-bias"])
@pytest.mark.parametrize("placement", ["tensorrt", "onnxruntime-u8-7bit"])
def test_correction_takes_the_mean_error_away_when_the_layer_is_linear(
        make: Make, table: Callable[..., CalibrationTable], feeds: Callable[..., list[dict[str, np.ndarray]]],
        rng: np.random.Generator, bias: bool, placement: str) -> None:
    model = make(f"g (float[1,8,4,4] x) => (float[1,4,4,4] y) {{ y = Conv(x, w{', b' if bias else ''}) }}",
                 w=rng.normal(size=(4, 8, 1, 1)), **({"b": rng.normal(size=4)} if bias else {}))
    data = feeds(model, count=32, mean=3.0)
    counted = table(model, data)
    errors = []
    for correct in (False, True):
        quantized, _ = insert_qdq(model, counted, get_placement(placement), QuantSpec(bias_correction=correct))
        # only the weights' share of the error: the activation grid has one of its own, which is no mean of weights
        dequantized = run_model(quantized, data[0], [quantized.graph.node[-1].input[1]
                                                     if placement == "tensorrt" else "w_dequantized"])
        shift = _bias(quantized, data[0]) - (run_model(model, data[0], ["b"])["b"] if bias else 0.0)
        weight_error = next(iter(dequantized.values())) - run_model(model, data[0], ["w"])["w"]
        mean = np.mean([feed["x"].mean(axis=(0, 2, 3)) for feed in data], axis=0)
        errors.append(np.abs(weight_error.reshape(4, 8) @ mean + shift).max())
    assert errors[1] < 0.05 * errors[0]


def _bias(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> np.ndarray:
    conv = next(node for node in model.graph.node if node.op_type == "Conv")
    return run_model(model, feeds, [conv.input[2]])[conv.input[2]] if len(conv.input) > 2 else np.zeros(4)


def test_correction_is_left_out_when_the_bias_is_computed(make: Make, table: Callable[..., CalibrationTable],
                                                          feeds: Callable[..., list[dict[str, np.ndarray]]],
                                                          rng: np.random.Generator) -> None:
    model = make("""g (float[1,4,4,4] x) => (float[1,4,4,4] y) {
        m = ReduceMean<axes=[0,2,3],keepdims=0>(x)\n y = Conv(x, w, m) }""", w=rng.normal(size=(4, 4, 1, 1)))
    data = feeds(model, mean=2.0)
    for placement in ("tensorrt", "onnxruntime-u8"):
        quantized, _ = insert_qdq(model, table(model, data), get_placement(placement), QuantSpec())
        assert next(node for node in quantized.graph.node if node.op_type == "Conv").input[2] == "m"
        np.testing.assert_allclose(run_model(quantized, data[0])["y"], run_model(model, data[0])["y"], atol=0.3)
