"""The ranges that grids imply."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest

from trtkit.precision import Estimator
from trtkit.quant.audit.lifting import lift, prepare
from trtkit.quant.audit.ranges import implied_ranges, table_of
from trtkit.ranges import estimate

Make = Callable[..., onnx.ModelProto]


def ranges(model: onnx.ModelProto) -> dict[str, tuple[float, float]]:
    return implied_ranges(lift(prepare(model)))


@pytest.mark.parametrize(("zero", "expected"), [
    (np.uint8(0), (0, 25.5)), (np.uint8(100), (-10, 15.5)), (np.int8(0), (-12.7, 12.7)), (np.int8(28), (-15.6, 9.9)),
], ids=["from-0", "uint8", "symmetric", "int8"])
def test_range_is_what_the_grid_covers(zero: np.generic, expected: tuple[float, float], make: Make) -> None:
    model = make("g (float[1,4] x) => (float[1,4] y) { q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, s, z) }",
                 s=np.float32(0.1), z=zero)
    assert ranges(model)["x"] == pytest.approx(expected)


@pytest.mark.parametrize(("op", "low"), [("Relu(x)", 0), ("Neg(x)", -12.7)])
def test_range_of_a_symmetric_grid_starts_at_0_behind_a_relu(op: str, low: float, make: Make) -> None:
    model = make(f"g (float[1,4] x) => (float[1,4] y) {{ r = {op} q = QuantizeLinear(r, s, z)"
                 " d = DequantizeLinear(q, s, z) y = Neg(d) }", s=np.float32(0.1), z=np.int8(0))
    assert ranges(model)["r"] == pytest.approx((low, 12.7))


def test_range_goes_over_what_moves_values_and_into_a_concat(make: Make) -> None:
    model = make("""g (float[1,4] x) => (float[8] y) {
        n = Neg(x) a = Abs(x) k = Concat<axis=1>(n, a) r = Reshape(k, to)
        q = QuantizeLinear(r, s, z) d = DequantizeLinear(q, s, z) y = Neg(d) }""", s=np.float32(0.1), z=np.int8(0),
                 to=np.array([8]))
    found = ranges(model)
    assert found["r"] == found["k"] == found["n"] == pytest.approx((-12.7, 12.7))
    assert "x" not in found


@pytest.mark.parametrize(("activation", "zero", "expected"), [
    ("Relu", np.uint8(0), (-12.7, 25.5 + 12.7)), ("Identity", np.uint8(55), (-5.5 - 12.7, 20 + 12.7)),
], ids=["relu", "linear"])
def test_range_of_a_branch_is_what_can_matter_to_the_saturated_sum(activation: str, zero: np.generic,
                                                                   expected: tuple[float, float], make: Make) -> None:
    model = make(f"""g (float[1,4] x) => (float[1,4] y) {{
        xq = QuantizeLinear(x, s, z) xd = DequantizeLinear(xq, s, z)
        n = Neg(x) a = Add(n, xd) r = {activation}(a)
        q = QuantizeLinear(r, s, zr) d = DequantizeLinear(q, s, zr) y = Neg(d) }}""",
                 s=np.float32(0.1), z=np.int8(0), zr=zero)
    assert ranges(model)["n"] == pytest.approx(expected)


def test_range_of_bounded_operators_needs_no_grid(make: Make) -> None:
    model = make("g (float[1,4] x) => (float[1,4] y) { c = Clip(x, low, high) t = Tanh(c) y = Neg(t) }",
                 low=np.float32(0), high=np.float32(6))
    assert ranges(model) == {"c": (0.0, 6.0), "t": (-1.0, 1.0)}


def test_table_gives_the_estimator_minmax_these_ranges() -> None:
    table = table_of({"a": (-1.5, 3.25), "b": (0.0, 6.0)})
    assert estimate(table.tensors["a"], Estimator.MINMAX, symmetric=False) == (-1.5, 3.25)
    assert estimate(table.tensors["b"], Estimator.MINMAX, symmetric=True)[1] == 6.0
