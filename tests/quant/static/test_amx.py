"""Weights of wide convolutions with zero point -1: the same integers, and only where a long sum makes it pay."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import parser

from trtkit.graph.run import run_model
from trtkit.precision import Precision
from trtkit.quant import lower
from trtkit.quant.index import as_tensor
from trtkit.quant.static.amx import choose_matrix_products
from trtkit.target import get_target

GRAPH = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[n, {inputs}, 5, 5] x) => (float[n, 4, h, w] y{more})
{{
    q = QuantizeLinear(x, s, z)
    d = DequantizeLinear(q, s, z)
    wd = DequantizeLinear<axis = 0>(w, ws, wz)
    c = Conv<group = {groups}>(d, wd)
    o = QuantizeLinear(c, os, z)
    y = DequantizeLinear(o, os, z)
    {extra}
}}
"""


def network(inputs: int, kernel: int, groups: int = 1, more: str = "", extra: str = "", low: int = -127):
    model = parser.parse_model(GRAPH.format(inputs=inputs, groups=groups, more=more, extra=extra))
    rng = np.random.default_rng(0)
    weights = rng.integers(low, 128, (4, inputs // groups, kernel, kernel)).astype(np.int8)
    weights.flat[0] = low
    model.graph.initializer.extend([
        as_tensor("s", np.float32(0.02)), as_tensor("z", np.uint8(117)), as_tensor("os", np.float32(0.1)),
        as_tensor("w", weights), as_tensor("ws", rng.uniform(0.001, 0.01, 4).astype(np.float32)),
        as_tensor("wz", np.zeros(4, np.int8))])
    onnx.checker.check_model(model)
    return model


@pytest.mark.parametrize(("inputs", "kernel"), [(320, 1), (116, 3)], ids=["pointwise", "3x3"])
def test_wide_convolution_is_equal_to_the_bit_when_its_zero_point_is_shifted(inputs: int, kernel: int) -> None:
    model = network(inputs, kernel)
    feeds = {"x": np.random.default_rng(1).standard_normal((2, inputs, 5, 5)).astype(np.float32)}
    before = run_model(model, feeds)["y"]
    assert choose_matrix_products(model) == 1
    np.testing.assert_array_equal(run_model(model, feeds)["y"], before)
    zero = next(onnx.numpy_helper.to_array(t) for t in model.graph.initializer if t.name == "wz")
    assert zero.dtype == np.int8
    assert (zero == -1).all()


@pytest.mark.parametrize("model", [
    pytest.param(network(319, 1), id="short sum"),
    pytest.param(network(64, 3), id="short sum of windows"),
    pytest.param(network(640, 1, groups=2), id="grouped"),
    pytest.param(network(320, 1, low=-128), id="no room below"),
    pytest.param(network(320, 1, more=", float[4, 320, 1, 1] v", extra="v = Relu(wd)"), id="weight read by another"),
])
def test_model_is_left_alone_when_it_does_not_apply(model: onnx.ModelProto) -> None:
    before = model.SerializeToString(deterministic=True)
    assert choose_matrix_products(model) == 0
    assert model.SerializeToString(deterministic=True) == before


def test_kernels_and_results_are_those_of_vnni_when_lowered_for_amx(make, rng, table, feeds, chosen) -> None:
    model = make("g (float[1,320,6,6] x) => (float[1,8,6,6] y) { c = Conv(x, w, b) y = Relu(c) }",
                 w=rng.normal(size=(8, 320, 1, 1)) / 18, b=rng.normal(size=8))
    ranges = table(model, feeds(model))
    vnni, amx = (lower(model, get_target(name), Precision.INT8, table=ranges).model for name in ("x86-vnni", "x86-amx"))
    assert vnni != amx
    assert chosen(onnx.load_from_string(amx)) == chosen(onnx.load_from_string(vnni))
    sample = feeds(model, 1)[0]
    np.testing.assert_array_equal(run_model(amx, sample)["y"], run_model(vnni, sample)["y"])
