"""Sums over pieces equal the metrics over the whole."""

from __future__ import annotations

import math

import numpy as np
import pytest

from trtkit import metrics
from trtkit.errors import SpecError
from trtkit.evaluate import DifferenceSum


def test_result_equals_the_metrics_of_everything_at_once():
    rng = np.random.default_rng(0)
    a = rng.standard_normal((10, 7)).astype(np.float32)
    b = a + 0.3 * rng.standard_normal((10, 7)).astype(np.float32)
    total = DifferenceSum("t")
    for x, y in zip(a, b):
        total.add(x[None], y[None])
    result = total.result()
    assert result.name == "t"
    assert result.max_abs_error == pytest.approx(metrics.max_abs_error(a, b))
    assert result.mean_abs_error == pytest.approx(metrics.mean_abs_error(a, b))
    assert result.cosine == pytest.approx(metrics.cosine(a, b))
    assert result.sqnr_db == pytest.approx(metrics.sqnr_db(a, b))
    assert result.agreement == pytest.approx(metrics.agreement(a, b))


def test_result_is_infinitely_far_when_only_the_candidate_is_not_finite():
    total = DifferenceSum("t")
    total.add(np.ones(3), np.array([1, np.nan, 1]))
    result = total.result()
    assert (result.max_abs_error, result.sqnr_db, result.cosine) == (math.inf, -math.inf, 0.0)


def test_result_is_equal_when_both_are_not_finite_alike():
    total = DifferenceSum("t")
    total.add(np.array([1, np.nan, np.inf]), np.array([1, np.nan, np.inf]))
    assert total.result().max_abs_error == 0.0
    assert total.result().sqnr_db == math.inf


def test_agreement_is_none_for_maps():
    total = DifferenceSum("t")
    total.add(np.ones((1, 2, 3, 3)), np.ones((1, 2, 3, 3)))
    assert total.result().agreement is None


def test_add_refuses_other_shapes():
    with pytest.raises(SpecError, match=r"Tensor 't' is \(2,\) in the reference and \(3,\)"):
        DifferenceSum("t").add(np.ones(2), np.ones(3))
