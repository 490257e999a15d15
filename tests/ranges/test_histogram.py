import numpy as np
import pytest

from trtkit.errors import CalibrationError
from trtkit.ranges.histogram import BIN_COUNT, Histogram, count_patterns


def values(seed: int, size: int = 5000) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(size).astype(np.float32)


def test_of_counts_every_value_once_and_keeps_exact_extremes() -> None:
    x = values(0)
    histogram = Histogram.of(x)
    assert histogram.total == x.size
    assert (histogram.min, histogram.max) == (float(x.min()), float(x.max()))
    assert np.all(np.diff(histogram.bins.astype(int)) > 0)


def test_count_patterns_equals_counting_by_hand() -> None:
    x = np.array([0.0, 1.0, 1.0, 1.001, -2.0], np.float32)
    counts = count_patterns(x)
    assert counts[0] == 1
    assert counts[0x3F80] == 3
    assert counts[0xC000] == 1
    assert counts.size <= BIN_COUNT


def test_add_equals_counting_together_whatever_the_order() -> None:
    parts = [values(seed) * 10 ** seed for seed in range(3)]
    together = Histogram.of(np.concatenate(parts))
    one, two, three = map(Histogram.of, parts)
    assert one.add(two).add(three) == together
    assert three.add(one.add(two)) == together
    assert Histogram.sum([two, three, one]) == together


def test_add_keeps_the_other_when_one_is_empty() -> None:
    histogram = Histogram.of(values(1) + 10)
    assert Histogram.empty().add(histogram) == histogram
    assert histogram.add(Histogram.empty()) == histogram


def test_zeros_counts_both_signs_and_nothing_else() -> None:
    assert Histogram.of(np.array([0.0, -0.0, 1e-20, -1e-20, 3.0])).zeros == 2


def test_non_finite_values_are_counted_apart_and_leave_the_extremes() -> None:
    histogram = Histogram.of(np.array([np.inf, -np.inf, np.nan, 2.0, -1.0]))
    assert histogram.non_finite == 3
    assert (histogram.min, histogram.max, histogram.amax) == (-1.0, 2.0, 2.0)


def test_intervals_hold_every_value_in_ascending_bins() -> None:
    x = values(2)
    low, high, counts = Histogram.of(x).intervals()
    assert np.all(low <= high)
    assert np.all(low[1:] >= high[:-1])
    assert counts.sum() == x.size
    assert (low[0], high[-1]) == (float(x.min()), float(x.max()))
    place = np.searchsorted(low, np.sort(x), side="right") - 1
    assert np.all(np.sort(x) <= high[place])


def test_intervals_stay_finite_at_the_end_of_float32() -> None:
    top = np.finfo(np.float32).max
    low, high, _ = Histogram.of(np.array([-top, top])).intervals()
    assert np.isfinite(low).all()
    assert high[-1] == top


def test_mean_is_close_to_the_exact_one() -> None:
    x = values(3) + 2
    assert Histogram.of(x).mean() == pytest.approx(float(x.mean()), rel=0.01)


@pytest.mark.parametrize(("bins", "counts"), [([2, 1], [1, 1]), ([1, 2], [1]), ([1], [0])],
                         ids=["descending", "lengths differ", "empty bin"])
def test_histogram_is_refused_when_inconsistent(bins: list[int], counts: list[int]) -> None:
    with pytest.raises(CalibrationError, match="ascending bins"):
        Histogram(np.array(bins, np.uint16), np.array(counts, np.uint64), 0.0, 1.0)


def test_sample_gives_values_of_the_distribution() -> None:
    values = np.concatenate([np.full(300, -4.0, np.float32), np.linspace(1, 2, 700, dtype=np.float32)])
    drawn = Histogram.of(values).sample((100, 40), np.random.default_rng(0))
    assert (drawn.shape, drawn.dtype) == ((100, 40), np.float32)
    assert (drawn < -3.9).mean() == pytest.approx(0.3, abs=0.03)
    assert drawn.min() >= -4
    assert drawn.max() <= 2
    assert not Histogram.empty().sample((3,), np.random.default_rng(0)).any()
