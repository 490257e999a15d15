import numpy as np
import pytest

from trtkit.calib import counting
from trtkit.calib.counting import Counter
from trtkit.ranges import Histogram

VALUES = np.random.default_rng(0).standard_normal((3, 40_000)).astype(np.float32)


@pytest.mark.parametrize("fast", [True, False], ids=["add.at", "bincount"])
def test_counter_equals_the_histogram_of_all_values(monkeypatch: pytest.MonkeyPatch, fast: bool) -> None:
    monkeypatch.setattr(counting, "_FAST_ADD_AT", fast)
    counter = Counter()
    assert all([counter.add("x", row) for row in VALUES])
    assert counter.tensors["x"].histogram() == Histogram.of(VALUES)


def test_counter_takes_other_float_types_strides_and_scalars() -> None:
    counter = Counter()
    for values in (VALUES[:, ::3].astype(np.float16), VALUES.T.astype(np.float64), np.float32(2.5).reshape(())):
        assert counter.add("x", values)
    assert counter.tensors["x"].histogram().total == VALUES[:, ::3].size + VALUES.size + 1


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf], ids=str)
@pytest.mark.parametrize("place", [0, 119_999])
def test_counter_notices_what_is_not_finite(value: float, place: int) -> None:
    values = VALUES.reshape(-1).copy()
    values[place] = value
    assert not Counter().add("x", values)


def test_counter_of_an_empty_array_is_empty() -> None:
    counter = Counter()
    assert counter.add("x", np.empty((0, 3), np.float32))
    assert counter.tensors["x"].histogram() == Histogram.empty()
