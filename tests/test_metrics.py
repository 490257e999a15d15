"""Metrics against their definitions, against scikit-learn, and on the edges."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from trtkit import metrics
from trtkit.errors import SpecError

sklearn_metrics = pytest.importorskip("sklearn.metrics")

FINITE = st.floats(-1e3, 1e3, width=32)
VECTORS = hnp.arrays(np.float32, st.integers(1, 40), elements=FINITE)
PAIRS = st.integers(1, 40).flatmap(lambda n: st.tuples(hnp.arrays(np.float32, n, elements=FINITE),
                                                       hnp.arrays(np.float32, n, elements=FINITE)))


@given(VECTORS)
def test_every_error_says_equal_when_tensors_are_equal(x):
    assert metrics.cosine(x, x) == pytest.approx(1.0)
    assert metrics.sqnr_db(x, x) == math.inf
    assert metrics.max_abs_error(x, x) == metrics.mean_abs_error(x, x) == 0.0
    assert metrics.agreement(x, x) == 1.0


@given(PAIRS)
def test_errors_are_symmetric_and_ordered(pair):
    a, b = pair
    assert metrics.cosine(a, b) == pytest.approx(metrics.cosine(b, a))
    assert -1.0 <= metrics.cosine(a, b) <= 1.0
    assert metrics.max_abs_error(a, b) == metrics.max_abs_error(b, a)
    assert 0 <= metrics.mean_abs_error(a, b) <= metrics.max_abs_error(a, b) * (1 + 1e-12)


@given(PAIRS, st.floats(0.125, 8))
def test_cosine_and_sqnr_do_not_depend_on_scale(pair, factor):
    a, b = (x.astype(np.float64) for x in pair)
    assert metrics.cosine(a * factor, b) == pytest.approx(metrics.cosine(a, b), abs=1e-9)
    wanted = metrics.sqnr_db(a, b)
    assert metrics.sqnr_db(a * factor, b * factor) == pytest.approx(wanted, abs=1e-6)


def test_cosine_of_zero_tensors():
    zero, one = np.zeros(3), np.ones(3)
    assert metrics.cosine(zero, zero) == 1.0
    assert metrics.cosine(zero, one) == 0.0
    assert metrics.cosine(one, -one) == -1.0


@pytest.mark.parametrize(("noise", "decibels"), [(1.0, 0.0), (0.1, 20.0), (0.01, 40.0)])
def test_sqnr_is_20_db_for_each_factor_of_ten(noise, decibels):
    assert metrics.sqnr_db(np.ones(8), np.ones(8) + noise) == pytest.approx(decibels)


def test_sqnr_of_noise_without_signal_is_minus_inf():
    assert metrics.sqnr_db(np.zeros(3), np.ones(3)) == -math.inf


def test_errors_of_unsigned_integers_do_not_wrap():
    assert metrics.max_abs_error(np.array([1], np.uint8), np.array([3], np.uint8)) == 2.0
    assert metrics.top_k_hits(np.array([[1, 200]], np.uint8), [[1]]).tolist() == [True]


@pytest.mark.parametrize("name", ["cosine", "sqnr_db", "max_abs_error", "mean_abs_error", "agreement"])
def test_errors_refuse_different_shapes(name):
    with pytest.raises(SpecError, match=r"\(2, 3\) and \(3, 2\)"):
        getattr(metrics, name)(np.ones((2, 3)), np.ones((3, 2)))


def test_agreement_counts_places_along_the_axis():
    a = np.array([[0, 1], [1, 0], [1, 0]])
    b = np.array([[0, 2], [0, 3], [5, 0]])
    assert metrics.agreement(a, b) == pytest.approx(2 / 3)
    assert metrics.agreement(a.T, b.T, axis=0) == pytest.approx(2 / 3)


def scored(samples: int = 60, classes: int = 6, seed: int = 0, ties: bool = False):
    rng = np.random.default_rng(seed)
    scores = rng.random((samples, classes)).astype(np.float32)
    return (np.round(scores, 1) if ties else scores), rng.random((samples, classes)) < 0.3


@pytest.mark.parametrize("k", [1, 2, 5])
def test_top_k_accuracy_is_that_of_scikit_learn_for_one_label(k):
    scores, _ = scored()
    labels = np.random.default_rng(1).integers(0, 6, 60)
    wanted = sklearn_metrics.top_k_accuracy_score(labels, scores, k=k, labels=range(6))
    assert metrics.top_k_accuracy(scores, labels[:, None].tolist(), k) == pytest.approx(wanted)


def test_top_k_hits_takes_any_accepted_label():
    scores = np.array([[0.1, 0.7, 0.2], [0.5, 0.3, 0.2]])
    assert metrics.top_k_hits(scores, [[0, 1], [1, 2]]).tolist() == [True, False]
    assert metrics.top_k_hits(scores, [[0, 1], [1, 2]], k=2).tolist() == [True, True]
    assert metrics.top_k_hits(scores, [[0], [2]], k=9).tolist() == [True, True]


@given(st.integers(1, 5), st.integers(0, 1000))
def test_top_k_never_falls_with_k(k, seed):
    scores, _ = scored(20, 6, seed)
    labels = np.random.default_rng(seed).integers(0, 6, (20, 2)).tolist()
    assert metrics.top_k_accuracy(scores, labels, k) <= metrics.top_k_accuracy(scores, labels, k + 1)


@pytest.mark.parametrize(("labels", "text"), [
    ([[3]], "Sample 0 has labels"), ([[]], "Sample 0 has labels"), ([[-1]], "classes 0 to 2"), ([[0], [1]], "2"),
], ids=["beyond", "none", "negative", "too-many"])
def test_top_k_refuses_labels(labels, text):
    with pytest.raises(SpecError, match=text):
        metrics.top_k_hits(np.ones((1, 3)), labels)


def test_top_k_accuracy_refuses_no_samples():
    with pytest.raises(SpecError, match="no samples"):
        metrics.top_k_accuracy(np.ones((0, 3)), [])


@pytest.mark.parametrize("ties", [False, True], ids=["distinct", "ties"])
@pytest.mark.parametrize("seed", range(5))
def test_average_precision_is_that_of_scikit_learn(seed, ties):
    scores, truth = scored(seed=seed, ties=ties)
    for each in range(truth.shape[1]):
        wanted = sklearn_metrics.average_precision_score(truth[:, each], scores[:, each])
        assert metrics.average_precision(scores[:, each], truth[:, each]) == pytest.approx(wanted)
    wanted = sklearn_metrics.average_precision_score(truth, scores, average="macro")
    assert metrics.mean_average_precision(scores, truth) == pytest.approx(wanted)


@settings(deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 30))
def test_average_precision_is_one_when_true_samples_rank_first(seed, size):
    rng = np.random.default_rng(seed)
    truth = rng.random(size) < 0.5
    truth[0] = True
    assert metrics.average_precision(truth + rng.random(size) * 0.5, truth) == pytest.approx(1.0)


def test_mean_average_precision_leaves_absent_classes_out():
    scores, truth = scored()
    truth[:, 2] = False
    kept = [c for c in range(6) if c != 2]
    assert metrics.mean_average_precision(scores, truth) == metrics.mean_average_precision(scores[:, kept],
                                                                                           truth[:, kept])


@pytest.mark.parametrize("average", ["micro", "macro"])
@pytest.mark.parametrize("threshold", [0.3, 0.5, 2.0])
def test_f1_is_that_of_scikit_learn(average, threshold):
    scores, truth = scored()
    wanted = sklearn_metrics.f1_score(truth, scores >= threshold, average=average, zero_division=0)
    assert metrics.f1(scores, truth, threshold=threshold, average=average) == pytest.approx(wanted)


@pytest.mark.parametrize("call", [
    lambda: metrics.f1(np.ones((2, 2)), np.ones((2, 2)), average="weighted"),
    lambda: metrics.f1(np.ones((2, 2)), np.ones((2, 3))),
    lambda: metrics.average_precision(np.ones(3), np.zeros(3)),
    lambda: metrics.mean_average_precision(np.ones((2, 2)), np.zeros((2, 2))),
], ids=["average", "shape", "nothing-true", "no-class"])
def test_multi_label_metrics_refuse(call):
    with pytest.raises(SpecError):
        call()
