import numpy as np
import pytest

from trtkit.errors import CalibrationError, SpecError
from trtkit.precision import Estimator
from trtkit.ranges.estimators import ESTIMATORS, estimate
from trtkit.ranges.histogram import Histogram

ALL = pytest.mark.parametrize("estimator", list(Estimator), ids=lambda e: e.value)
BOTH = pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "asymmetric"])
RNG = np.random.default_rng(7)
GAUSS = RNG.standard_normal(200_000).astype(np.float32)
LAPLACE = RNG.laplace(size=200_000).astype(np.float32)
RELU = np.maximum(GAUSS, 0)
SILU = (GAUSS * 4 / (1 + np.exp(-GAUSS * 4))).astype(np.float32)


def real_error(x: np.ndarray, low: float, high: float, symmetric: bool, power: float = 2) -> float:
    """Quantize and dequantize the values themselves, in 8 bits."""
    if symmetric:
        step, zero, codes = high / 127, 0, (-128, 127)
    else:
        step = (high - low) / 255
        zero, codes = -round(low / step), (0, 255)
    code = np.clip(np.rint(x / step) + zero, *codes)
    return float((np.abs((code - zero) * step - x) ** power).mean())


def test_every_estimator_is_registered() -> None:
    assert set(ESTIMATORS) == set(Estimator)


@ALL
def test_symmetric_range_is_mirrored(estimator: Estimator) -> None:
    low, high = estimate(Histogram.of(SILU), estimator, symmetric=True)
    assert low == -high < 0


@ALL
@pytest.mark.parametrize("x", [GAUSS, LAPLACE, RELU, SILU, -RELU, GAUSS + 50], ids=[
    "gauss", "laplace", "relu", "silu", "negative", "far from 0"])
def test_asymmetric_range_contains_zero_and_stays_within_the_values(estimator: Estimator, x: np.ndarray) -> None:
    low, high = estimate(Histogram.of(x), estimator, symmetric=False)
    assert min(float(x.min()), 0.0) <= low <= 0 <= high <= max(float(x.max()), 0.0)
    assert high > low


@ALL
def test_one_sided_data_keeps_zero_exactly(estimator: Estimator) -> None:
    low, high = estimate(Histogram.of(RELU), estimator, symmetric=False)
    assert low == 0.0 < high
    low, high = estimate(Histogram.of(-RELU), estimator, symmetric=False)
    assert low < 0.0 == high


@ALL
@BOTH
def test_relu6_range_ends_at_six_exactly(estimator: Estimator, symmetric: bool) -> None:
    assert estimate(Histogram.of(np.clip(GAUSS * 4, 0, 6)), estimator, symmetric=symmetric)[1] == 6.0


def test_minmax_is_exact() -> None:
    assert estimate(Histogram.of(GAUSS), Estimator.MINMAX, symmetric=False) == (float(GAUSS.min()), float(GAUSS.max()))


@pytest.mark.parametrize("percentile", [90.0, 99.0, 99.9])
def test_percentile_keeps_that_share_inside(percentile: float) -> None:
    for symmetric in (True, False):
        low, high = estimate(Histogram.of(GAUSS), Estimator.PERCENTILE, symmetric=symmetric, percentile=percentile)
        inside = 100 * float(((low <= GAUSS) & (high >= GAUSS)).mean())
        assert percentile <= inside < percentile + 0.2


@pytest.mark.parametrize("x", [GAUSS, LAPLACE, RELU, SILU], ids=["gauss", "laplace", "relu", "silu"])
@BOTH
def test_mse_is_as_good_as_a_search_over_the_values_themselves(x: np.ndarray, symmetric: bool) -> None:
    low, high = estimate(Histogram.of(x), Estimator.MSE, symmetric=symmetric)
    full = estimate(Histogram.of(x), Estimator.MINMAX, symmetric=symmetric)
    best = min(real_error(x, full[0] * a, full[1] * a, symmetric) for a in np.linspace(0.2, 1, 81))
    assert real_error(x, low, high, symmetric) <= best * 1.02


def reference_divergences(x: np.ndarray, bins: int = 2048, groups: int = 128) -> tuple[np.ndarray, np.ndarray]:
    """Thresholds and divergences of the published algorithm, literally, on linear bins of the values themselves."""
    magnitude = np.abs(x[x != 0])
    counts, edges = np.histogram(magnitude, bins=bins, range=(0, magnitude.max()))
    divergences = []
    for kept in range(groups, bins + 1):
        p = counts[:kept].astype(float)
        p[-1] += counts[kept:].sum()
        group = np.repeat(np.arange(groups), np.diff(np.arange(groups + 1) * kept // groups))
        mass, filled = np.bincount(group, counts[:kept], groups), np.bincount(group, p > 0, groups)
        q = np.where(p > 0, (np.maximum(mass, 1e-4) / np.maximum(filled, 1))[group], 0)
        p, q = p[p > 0] / p.sum(), q[p > 0] / q.sum()
        divergences.append(float((p * np.log(p / q)).sum()))
    return edges[groups:], np.array(divergences)


@pytest.mark.parametrize("x", [GAUSS, LAPLACE, SILU, np.append(GAUSS, 300).astype(np.float32)],
                         ids=["gauss", "laplace", "silu", "outlier"])
def test_entropy_agrees_with_the_published_algorithm(x: np.ndarray) -> None:
    _, high = estimate(Histogram.of(x), Estimator.ENTROPY, symmetric=True)
    thresholds, divergences = reference_divergences(x)
    best = int(np.argmin(divergences))
    assert high == pytest.approx(float(thresholds[best]), rel=0.15)
    assert np.interp(high, thresholds, divergences) <= 1.3 * divergences[best] + 1e-4


@ALL
@pytest.mark.parametrize("x", [np.zeros(9), np.full(9, 1e-42)], ids=["zero", "denormal"])
def test_dead_tensor_gets_a_usable_range(estimator: Estimator, x: np.ndarray) -> None:
    assert estimate(Histogram.of(x), estimator, symmetric=True) == (-1.0, 1.0)
    assert estimate(Histogram.of(x), estimator, symmetric=False) == (0.0, 1.0)


@ALL
@BOTH
@pytest.mark.parametrize("value", [3.3, 1e30, 1e-30])
def test_single_value_is_covered(estimator: Estimator, symmetric: bool, value: float) -> None:
    low, high = estimate(Histogram.of(np.full(9, value)), estimator, symmetric=symmetric)
    assert high == pytest.approx(value)
    assert low == (-high if symmetric else 0)


@ALL
def test_estimate_fails_when_values_are_not_finite_or_absent(estimator: Estimator) -> None:
    with pytest.raises(CalibrationError, match="1 infinite or NaN values of 3"):
        estimate(Histogram.of(np.array([1.0, 2.0, np.nan])), estimator, symmetric=True)
    with pytest.raises(CalibrationError, match="without values"):
        estimate(Histogram.empty(), estimator, symmetric=True)


@pytest.mark.parametrize("options", [{"levels": 255}, {"levels": 2}, {"percentile": 50.0}, {"percentile": 101.0}],
                         ids=str)
def test_estimate_fails_when_an_option_is_out_of_range(options: dict) -> None:
    with pytest.raises(SpecError):
        estimate(Histogram.of(GAUSS), Estimator.PERCENTILE, symmetric=True, **options)


@BOTH
@pytest.mark.parametrize("x", [GAUSS, LAPLACE, SILU, np.append(GAUSS, 300).astype(np.float32)],
                         ids=["gauss", "laplace", "silu", "outlier"])
def test_auto_is_the_estimator_with_the_least_error_on_the_values_themselves(x: np.ndarray, symmetric: bool) -> None:
    def error(found: tuple[float, float]) -> float:
        return real_error(x, *found, symmetric, power=2.4)

    others = [error(estimate(Histogram.of(x), each, symmetric=symmetric)) for each in Estimator
              if each is not Estimator.AUTO]
    assert error(estimate(Histogram.of(x), Estimator.AUTO, symmetric=symmetric)) <= 1.02 * min(others)
    assert min(others) < 0.9 * max(others)


def test_coarser_grid_clips_no_less() -> None:
    fine = estimate(Histogram.of(GAUSS), Estimator.MSE, symmetric=True, levels=256)[1]
    coarse = estimate(Histogram.of(GAUSS), Estimator.MSE, symmetric=True, levels=16)[1]
    assert coarse < fine
