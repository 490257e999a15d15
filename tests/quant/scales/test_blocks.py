"""4-bit blocks: the grid, the padding, and that ADAPTIVE has the smaller error."""

from __future__ import annotations

import numpy as np
import pytest

from trtkit.errors import SpecError
from trtkit.precision import Rounding
from trtkit.quant.scales.blocks import quantize_blocks

BOTH = pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "asymmetric"])
EACH = pytest.mark.parametrize("rounding", list(Rounding), ids=lambda each: each.value)


@BOTH
@EACH
def test_values_on_the_grid_come_back_exactly(symmetric: bool, rounding: Rounding, rng: np.random.Generator) -> None:
    low, high = (-7, 7) if symmetric else (-3, 12)
    steps = rng.integers(low, high, (64, 5), endpoint=True)
    steps[::16], steps[1::16] = low, high
    weight = (steps * np.repeat(2.0 ** np.arange(-2, 2), 16)[:, None]).astype(np.float32)
    found = quantize_blocks(weight, 16, rounding, symmetric=symmetric)
    assert found.scale.shape == (4, 5)
    np.testing.assert_allclose(found.dequantized(), weight, rtol=1e-6)


@BOTH
@EACH
@pytest.mark.parametrize("rows", [64, 70, 3], ids=["whole", "padded", "less-than-a-block"])
def test_error_stays_below_half_a_step_of_the_block(symmetric: bool, rounding: Rounding, rows: int,
                                                    rng: np.random.Generator) -> None:
    weight = (rng.normal(size=(rows, 9)) + 0.3).astype(np.float32)
    found = quantize_blocks(weight, 32, rounding, symmetric=symmetric)
    count = -(-rows // 32)
    assert (found.values.shape, found.scale.shape, found.rows) == ((count * 32, 9), (count, 9), rows)
    assert found.values.dtype == (np.int8 if symmetric else np.uint8)
    assert (found.values.min() >= (-8 if symmetric else 0), found.values.max() <= (7 if symmetric else 15)) == (1, 1)
    assert (found.zero_point is None) is symmetric
    error = np.abs(found.dequantized() - weight)
    if rounding is Rounding.NEAREST:
        slack = 0.5 if symmetric else 1.0  # the zero point is rounded as well
        assert (error <= slack * np.repeat(found.scale, 32, axis=0)[:rows] * 1.0001).all()
    padding = found.values[rows:].astype(int)
    assert not (padding if symmetric else padding - np.repeat(found.zero_point, 32, axis=0)[rows:]).any()


@BOTH
def test_adaptive_is_better_in_every_block_and_near_the_best_scale_there_is(symmetric: bool,
                                                                            rng: np.random.Generator) -> None:
    weight = rng.standard_t(4, (32, 40)).astype(np.float32)
    errors = {each: ((quantize_blocks(weight, 32, each, symmetric=symmetric).dequantized() - weight) ** 2).sum(axis=0)
              for each in Rounding}
    assert errors[Rounding.ADAPTIVE].sum() < (0.9 if symmetric else 0.97) * errors[Rounding.NEAREST].sum()
    assert (errors[Rounding.ADAPTIVE] <= errors[Rounding.NEAREST] * 1.0001).all()
    if symmetric:
        scales = np.linspace(0.4, 1.3, 400) * np.abs(weight).max(axis=0)[:, None] / 7
        best = [min(((np.clip(np.rint(column / scale), -8, 7) * scale - column) ** 2).sum() for scale in row)
                for column, row in zip(weight.T, scales)]
        assert errors[Rounding.ADAPTIVE].sum() < 1.05 * sum(best)


@BOTH
@EACH
def test_blocks_of_zeros_and_of_tiny_values_have_positive_scales(symmetric: bool, rounding: Rounding) -> None:
    weight = np.zeros((32, 3), np.float32)
    weight[16:, 1] = 1e-40
    weight[:, 2] = 1e-37
    found = quantize_blocks(weight, 16, rounding, symmetric=symmetric)
    assert (found.scale >= np.finfo(np.float32).tiny).all()
    np.testing.assert_allclose(found.dequantized(), weight, atol=1e-37)
    assert not found.dequantized()[:, 0].any()


@BOTH
def test_parts_give_what_the_whole_gives(symmetric: bool, rng: np.random.Generator,
                                         monkeypatch: pytest.MonkeyPatch) -> None:
    weight = rng.normal(size=(128, 8)).astype(np.float32)
    whole = quantize_blocks(weight, 16, Rounding.ADAPTIVE, symmetric=symmetric)
    monkeypatch.setattr("trtkit.quant.scales.blocks._CHUNK_ELEMENTS", 300)
    parts = quantize_blocks(weight, 16, Rounding.ADAPTIVE, symmetric=symmetric)
    for name in ("values", "scale", "zero_point"):
        np.testing.assert_array_equal(getattr(whole, name), getattr(parts, name))


@pytest.mark.parametrize("weight", [
    pytest.param(np.ones(4, np.float32), id="vector"),
    pytest.param(np.full((4, 4), np.inf, np.float32), id="infinite"),
])
def test_weight_is_refused_when_it_is_no_finite_matrix(weight: np.ndarray) -> None:
    with pytest.raises(SpecError, match=r"Give a finite matrix \[K, N\]"):
        quantize_blocks(weight, 32, Rounding.NEAREST, symmetric=True)
