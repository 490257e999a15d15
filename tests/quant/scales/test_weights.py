"""Weights on the integer grid."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from trtkit.quant.scales.weights import quantize_weight

WEIGHTS = hnp.arrays(np.float32, hnp.array_shapes(min_dims=2, max_dims=4, max_side=5),
                     elements=st.floats(-1e6, 1e6, width=32))


def channel_errors(weight: np.ndarray, approximation: np.ndarray, axis: int) -> np.ndarray:
    error = np.moveaxis(approximation.astype(np.float64) - weight, axis, 0)
    return (error.reshape(len(error), -1) ** 2).sum(axis=1)


@settings(max_examples=150, deadline=None)
@given(WEIGHTS, st.sampled_from([127, 64]), st.data())
def test_quantize_weight_is_at_least_as_good_as_minmax(weight: np.ndarray, largest: int, data: st.DataObject) -> None:
    axis = data.draw(st.integers(0, weight.ndim - 1))
    result = quantize_weight(weight, axis, largest=largest)
    assert result.values.dtype == np.int8
    assert np.abs(result.values.astype(int)).max() <= largest
    assert result.scale.shape == (weight.shape[axis],)
    assert result.scale.dtype == np.float32
    assert (result.scale >= np.finfo(np.float32).tiny).all()
    shape = [-1 if i == axis else 1 for i in range(weight.ndim)]
    amax = np.abs(np.moveaxis(weight, axis, 0).reshape(weight.shape[axis], -1)).max(axis=1)
    scale = np.where(amax < 1e-30, 1, amax / np.float32(largest)).astype(np.float32).reshape(shape)
    minmax = np.clip(np.rint(weight / scale), -largest, largest) * scale
    ours = channel_errors(weight, result.dequantized(), axis)
    assert (ours <= channel_errors(weight, minmax, axis) * (1 + 1e-4) + 1e-9 * amax.astype(np.float64) ** 2).all()


def test_quantize_weight_clips_an_outlier_when_that_helps_the_others() -> None:
    weight = np.full((1, 4096), 0.3, np.float32) + np.random.default_rng(0).uniform(-.3, .3, 4096).astype(np.float32)
    weight[0, 0] = 0.75
    assert quantize_weight(weight, 0).scale[0] < 0.75 / 127


def test_quantize_weight_gives_one_scale_without_an_axis() -> None:
    weight = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    result = quantize_weight(weight, None)
    assert result.scale.shape == ()
    assert np.abs(result.dequantized() - weight).max() < np.abs(weight).max() / 127


@pytest.mark.parametrize("value", [0.0, 1e-45, 1e-39], ids=["zero", "smallest", "subnormal"])
def test_quantize_weight_gives_a_normal_scale_when_a_channel_is_all_but_zero(value: float) -> None:
    weight = np.array([[value, -value], [1.0, -0.5]], np.float32)
    result = quantize_weight(weight, 0)
    assert (result.scale >= np.finfo(np.float32).tiny).all()
    assert (result.values[0] == 0).all()
    np.testing.assert_allclose(result.dequantized(), weight, atol=1e-2)


def test_quantize_weight_keeps_scales_above_the_bound() -> None:
    weight = np.random.default_rng(0).normal(size=(3, 8)).astype(np.float32)
    bound = np.array([0.0, 1.0, 0.0], np.float32)
    free, bounded = quantize_weight(weight, 0), quantize_weight(weight, 0, smallest_scale=bound)
    assert bounded.scale[1] == 1.0
    np.testing.assert_array_equal(bounded.scale[[0, 2]], free.scale[[0, 2]])
    np.testing.assert_array_equal(bounded.values[1], np.rint(weight[1]))
