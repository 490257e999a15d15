"""Models as they come: what stands in the way of quantizing them, and that it is out of the way afterwards."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest

from trtkit.calib import calibrate, open_data
from trtkit.graph import made_ready, model_bytes, model_inputs, random_feeds, run_model, why_not_ready
from trtkit.precision import Precision
from trtkit.quant import check_lowered, lower
from trtkit.target import load_targets

Parse = Callable[..., onnx.ModelProto]

CONV = "agraph (float[N, 4, 8, 8] x) => (float[N, 8, 8, 8] y) { y = Conv <pads = [1, 1, 1, 1]> (x, w) }"
IDENTITIES = """agraph (float[N, 4, 8, 8] x) => (float[N, 8, 8, 8] y) {
    a = Identity (w)
    b = Identity (a)
    y = Conv <pads = [1, 1, 1, 1]> (x, b)
}"""
BATCHNORM = """agraph (float[N, 4, 8, 8] x) => (float[N, 8, 8, 8] y) {
    c = Conv <pads = [1, 1, 1, 1]> (x, w)
    y = BatchNormalization (c, one, zero, zero, one)
}"""
COMPUTED = """agraph (float[N, 4, 8, 8] x) => (float[N, 8, 8, 8] y) {
    w = ConstantOfShape <value = float[1] {0.25}> (shape)
    y = Conv <pads = [1, 1, 1, 1]> (x, w)
}"""
IF = """agraph (float[N, 4, 8, 8] x, bool flip) => (float[N, 8, 8, 8] y) {
    c = Conv <pads = [1, 1, 1, 1]> (x, w)
    y = If (flip) <then_branch = t () => (float[N, 8, 8, 8] a) { a = Neg (c) },
                   else_branch = e () => (float[N, 8, 8, 8] b) { b = Relu (c) }>
}"""
TOKENS = """agraph (int64[N, 5] ids) => (float[N, 5, 8] y) {
    e = Gather (w, ids)
    y = MatMul (e, v)
}"""


def weight() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(8, 4, 3, 3)).astype(np.float32)


def with_constants(model: onnx.ModelProto) -> onnx.ModelProto:
    """Turn the initializers into Constant nodes, as Paddle's exporter writes them."""
    nodes = [onnx.helper.make_node("Constant", [], [tensor.name], value=tensor) for tensor in model.graph.initializer]
    nodes += list(model.graph.node)
    del model.graph.node[:], model.graph.initializer[:]
    model.graph.node.extend(nodes)
    return model


def undeclared(model: onnx.ModelProto) -> onnx.ModelProto:
    """Write the dynamic dimensions as Paddle does: -1 and '?'."""
    dims = model.graph.input[0].type.tensor_type.shape.dim
    dims[0].dim_value, dims[2].dim_param, dims[3].dim_param = -1, "?", "?"
    return model


def models(parse: Parse) -> dict[str, tuple[onnx.ModelProto, str]]:
    """Return each kind of model with what stands in its way."""
    unit = {"one": np.ones(8, np.float32), "zero": np.zeros(8, np.float32)}
    return {
        "old opset": (parse(CONV, opset=11, w=weight()), "opset 11"),
        "Constant weights": (with_constants(parse(CONV, w=weight())), "Constant"),
        "Identity chain": (parse(IDENTITIES, w=weight()), "Identity"),
        "BatchNormalization": (parse(BATCHNORM, w=weight(), **unit), "BatchNormalization stands behind Conv"),
        "computed weights": (parse(COMPUTED, opset=12, shape=np.array([8, 4, 3, 3])), "opset 12"),
        "degenerate weights": (parse(CONV, opset=12, w=np.zeros((8, 4, 3, 3), np.float32)), "opset 12"),
        "undeclared sizes": (undeclared(with_constants(parse(CONV, opset=12, w=weight()))), "opset 12"),
        "integer inputs": (parse(TOKENS, opset=12, w=weight().reshape(36, 8), v=weight().reshape(8, 36)[:, :8]),
                           "opset 12"),
        "control flow": (parse(IF, opset=12, w=weight()), "opset 12"),
    }


KINDS = ("old opset", "Constant weights", "Identity chain", "BatchNormalization", "computed weights",
         "degenerate weights", "undeclared sizes", "integer inputs", "control flow")


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_as_it_comes_is_made_ready(parse: Parse, kind: str) -> None:
    model, reason = models(parse)[kind]
    assert reason in str(why_not_ready(model))
    ready = made_ready(model)
    assert why_not_ready(ready) is None
    feeds = random_feeds(model)
    for name, value in run_model(model, feeds).items():
        np.testing.assert_allclose(run_model(ready, feeds)[name], value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("target", ["rtx", "jetson-xavier-jp5", "x86-vnni"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_model_as_it_comes_is_calibrated_and_quantized(parse: Parse, kind: str, target: str) -> None:
    model, _ = models(parse)[kind]
    samples = [random_feeds(model, seed) for seed in range(4)]
    table = calibrate(model, open_data(samples, input=model_inputs(model)[0]), workers=1)
    lowered = lower(model, load_targets()[target], Precision.INT8, table=table)
    assert any(note.startswith("rewritten first, since") for note in lowered.notes)
    quantized = onnx.ModelProto.FromString(lowered.simulation)
    assert "DequantizeLinear" in {node.op_type for node in quantized.graph.node}
    if kind != "degenerate weights":  # zeros have no direction
        assert check_lowered(model_bytes(model), lowered, samples[:1]).cosine > 0.99


def test_a_model_that_is_ready_stays_as_it_is(parse: Parse) -> None:
    model = parse(CONV, w=weight())
    assert why_not_ready(model) is None
    assert made_ready(model) is model
