"""Constants added by zero points: exact on the integers, and left alone where the grid does not allow it."""

from __future__ import annotations

import numpy as np
import pytest

from trtkit.quant.scales.grids import Grid
from trtkit.quant.static.shift import shifted_grids


@pytest.mark.parametrize("constant", [-1.1, 0.7, -0.13, 0.3])
@pytest.mark.parametrize("bounds", [(0, 255), (-128, 127)], ids=["u8", "s8"])
def test_shifted_grids_add_the_constant(constant: float, bounds: tuple[int, int]) -> None:
    low = -0.375 + constant
    total = Grid(np.float32(0.04), bounds[0] + round(max(0.0, -low) / 0.04), bounds)
    grids = shifted_grids(total, constant)
    assert grids is not None
    written, read = grids
    x = np.linspace(-0.375, 6, 500)
    integers = np.clip(np.rint(x / written.scale) + written.zero_point, *bounds)
    np.testing.assert_allclose((integers - read.zero_point) * read.scale, x + constant, atol=0.51 * written.scale)
    assert total.scale <= written.scale * 1.001 <= 1.42 * total.scale


@pytest.mark.parametrize(("constant", "zero_point"), [
    pytest.param(0.03, 100, id="smaller-than-a-step"),
    pytest.param(0.075, 100, id="between-one-and-two-steps"),
    pytest.param(8.0, 100, id="zero-above-the-grid"),
    pytest.param(-8.0, 100, id="zero-below-the-grid"),
])
def test_there_are_no_grids_when_the_constant_does_not_fit(constant: float, zero_point: int) -> None:
    assert shifted_grids(Grid(np.float32(0.04), zero_point, (0, 255)), constant) is None
