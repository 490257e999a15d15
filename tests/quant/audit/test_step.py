"""Grids as models store them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest

from trtkit.graph import run_model
from trtkit.quant.audit.step import Step, node_step
from trtkit.quant.index import GraphIndex

Make = Callable[..., onnx.ModelProto]


@pytest.mark.parametrize("zero", [np.uint8(7), np.int8(-3)], ids=["uint8", "int8"])
def test_step_quantizes_as_onnx_runtime_does(zero: np.generic, make: Make, rng: np.random.Generator) -> None:
    model = make("g (float[64] x) => (float[64] y) { q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, s, z) }",
                 s=np.float32(0.03), z=zero)
    step = node_step(GraphIndex(model), model.graph.node[0])
    x = (rng.standard_normal(64) * 9).astype(np.float32)
    y = run_model(model, {"x": x}, optimize=False)["y"]
    assert np.allclose(step.dequantize(step.quantize(x)), y, rtol=1e-6, atol=0)
    low, high = step.range
    assert (y.min(), y.max()) == pytest.approx((low, high), abs=0.03)


def test_step_spreads_its_scales_along_the_axis() -> None:
    step = Step(np.array([1.0, 10.0], np.float32), np.zeros(2, np.int64), "int8", axis=1)
    assert step.dequantize(np.array([[1, 1], [2, 2]], np.int8)).tolist() == [[1, 10], [2, 20]]


def test_step_spreads_blocked_scales_over_a_last_block_that_is_short() -> None:
    step = Step(np.array([[1.0], [10.0]], np.float32), np.zeros((2, 1), np.int64), "int4", axis=0, block=2)
    assert step.dequantize(np.ones((3, 1), np.int8)).tolist() == [[1], [1], [10]]


def test_step_has_no_grid_when_the_scale_is_computed(make: Make) -> None:
    model = make("g (float[4] x, float s) => (uint8[4] y) { y = QuantizeLinear(x, s) }")
    step = node_step(GraphIndex(model), model.graph.node[0])
    assert (step.is_8bit, step.explicit, step.dtype) == (False, False, "uint8")
    assert not step.close_to(step)
