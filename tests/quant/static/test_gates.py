"""Gates as look-ups: the split of HardSwish, the ranges that matter, and grids that saturate where the gate does."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest

from trtkit.graph import run_model
from trtkit.quant.index import GraphIndex
from trtkit.quant.static.gates import gate_grid, split_hardswish, to_lookup, useful_range

Make = Callable[..., onnx.ModelProto]
U8, S8 = (0, 255), (-128, 127)


def test_split_hardswish_keeps_name_and_values(make: Make) -> None:
    model = make("g (float[64] x) => (float[64] y, float[64] z) { y = HardSwish(x)\n z = HardSwish(y) }")
    feeds = {"x": np.linspace(-5, 5, 64, dtype=np.float32)}
    before = run_model(model, feeds)
    assert split_hardswish(model) == 2
    onnx.checker.check_model(model, full_check=True)
    assert [(node.op_type, node.name) for node in model.graph.node[:2]] == [
        ("HardSigmoid", "HardSwish_0/gate"), ("Mul", "HardSwish_0")]
    assert all(GraphIndex(model).is_float(node.output[0]) for node in model.graph.node)
    for name, value in run_model(model, feeds).items():
        np.testing.assert_allclose(value, before[name], atol=1e-6)
    assert split_hardswish(model) == 0


@pytest.mark.parametrize(("text", "bounds"), [
    pytest.param("g = HardSigmoid<alpha=0.25>(x)\n y = Mul(x, g)", (-2, np.inf), id="hardswish"),
    pytest.param("y = HardSigmoid<alpha=0.25>(x)", (-2, 2), id="gate"),
    pytest.param("g = HardSigmoid(x)\n y = Add(x, g)", (-np.inf, np.inf), id="read-otherwise"),
    pytest.param("y = Relu(x)", (-np.inf, np.inf), id="no-gate"),
])
def test_useful_range_ends_where_the_gate_saturates(make: Make, text: str, bounds: tuple[float, float]) -> None:
    model = make(f"g (float[4] x) => (float[4] y) {{ {text} }}")
    assert useful_range(GraphIndex(model), "x") == pytest.approx(bounds)


@pytest.mark.parametrize("bounds", [U8, S8], ids=["u8", "s8"])
@pytest.mark.parametrize(("alpha", "beta"), [(1 / 6, 0.5), (0.2, 0.5), (0.25, 0.25)])
def test_lookup_of_a_hardsigmoid_is_the_hardsigmoid(bounds: tuple[int, int], alpha: float, beta: float) -> None:
    node = onnx.helper.make_node("HardSigmoid", ["x"], ["y"], alpha=alpha, beta=beta)
    written, read = to_lookup(node, bounds), gate_grid(bounds)
    assert (node.op_type, node.attribute[0].f) == ("LeakyRelu", 1.0)
    x = np.linspace(-beta / alpha, 8, 1001)
    integers = np.clip(np.rint(x / written.scale) + written.zero_point, *bounds)
    found = (integers - read.zero_point) * read.scale
    np.testing.assert_allclose(found, np.clip(alpha * x + beta, 0, 1), atol=0.6 / 254 + abs(254 * beta % 1) / 254)
    assert found.min() == 0.0
    assert found.max() == pytest.approx(1.0)


def test_sigmoid_is_written_as_it_is_read() -> None:
    node = onnx.helper.make_node("Sigmoid", ["x"], ["y"])
    assert to_lookup(node, U8) == gate_grid(U8)
    assert node.op_type == "Sigmoid"
