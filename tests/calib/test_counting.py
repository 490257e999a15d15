import numpy as np
import pytest

from trtkit.calib.counting import Counter
from trtkit.ranges import Histogram

VALUES = np.random.default_rng(0).standard_normal((3, 140_000)).astype(np.float32)


@pytest.mark.parametrize("shift", [0, 10, -10], ids=["both signs", "positive", "negative"])
@pytest.mark.parametrize("order", [1, -1], ids=["rising", "falling"])
@pytest.mark.parametrize("relu", [True, False], ids=["relu", "plain"])
def test_counter_equals_the_histogram_of_all_values(shift: float, order: int, relu: bool) -> None:
    rows = VALUES * np.array([[1], [3], [0.5]], np.float32) + np.float32(shift)
    rows = (np.maximum(rows, 0) if relu else rows)[::order]
    counter = Counter()
    assert all([counter.add("x", row) for row in rows])
    assert counter.tensors["x"].histogram() == Histogram.of(rows)


def test_counter_takes_other_float_types_strides_and_scalars() -> None:
    counter = Counter()
    for values in (VALUES[:, ::3].astype(np.float16), VALUES.T.astype(np.float64), np.float32(2.5).reshape(())):
        assert counter.add("x", values)
    assert counter.tensors["x"].histogram().total == VALUES[:, ::3].size + VALUES.size + 1


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf], ids=str)
@pytest.mark.parametrize("place", [0, 139_999, 419_999])
def test_counter_notices_what_is_not_finite(value: float, place: int) -> None:
    for values in (VALUES.reshape(-1).copy(), np.abs(VALUES.reshape(-1)), np.zeros(VALUES.size, np.float32)):
        counter = Counter()
        assert counter.add("x", values)
        values[place] = value
        assert not counter.add("x", values)
        assert not Counter().add("x", values)


def test_counter_of_an_empty_array_is_empty() -> None:
    counter = Counter()
    assert counter.add("x", np.empty((0, 3), np.float32))
    assert counter.tensors["x"].histogram() == Histogram.empty()
