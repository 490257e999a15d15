from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from trtkit.errors import CalibrationError
from trtkit.ranges import CalibrationTable, Histogram, Learned, LearnedGrid, LearnedScales


def plain() -> CalibrationTable:
    return CalibrationTable({"x": Histogram.of(np.linspace(-1, 2, 50))}, 3, "model", "data", "prep")


def learned() -> CalibrationTable:
    grids = {"x": LearnedGrid(float(np.float32(0.1)), 7, (0, 255)), "y": LearnedGrid(2.0**-9, 0, (-127, 127))}
    weights = {("w", 0): LearnedScales(np.array([0.25, 1 / 3], np.float32), 127),
               ("w", None): LearnedScales(np.array(0.1, np.float32), 64)}
    return replace(plain(), learned=Learned(grids, weights))


def test_learned_scales_survive_saving_to_the_bit(tmp_path: Path) -> None:
    learned().save(tmp_path / "t.calib")
    loaded = CalibrationTable.load(tmp_path / "t.calib")
    assert loaded == learned()
    assert loaded.learned.weights["w", None].scale.shape == ()


def test_table_without_learned_scales_keeps_the_format_that_older_versions_read() -> None:
    assert b'"version": 1' in plain().to_bytes()
    assert not CalibrationTable.from_bytes(plain().to_bytes()).learned
    assert b'"version": 2' in learned().to_bytes()


def test_merge_refuses_learned_scales() -> None:
    with pytest.raises(CalibrationError, match="one training run"):
        plain().merge(learned())


def test_scales_of_other_integers_cover_the_same_range() -> None:
    scales = LearnedScales(np.array([0.5, 2.0], np.float32), 127)
    assert scales.for_largest(127) is scales.scale
    np.testing.assert_allclose(scales.for_largest(64) * 64, scales.scale * 127, rtol=1e-6)


@pytest.mark.parametrize(("scale", "zero_point"), [(0.0, 0), (float("nan"), 0), (1.0, 300)])
def test_grid_is_refused_when_it_is_none(scale: float, zero_point: int) -> None:
    with pytest.raises(CalibrationError, match="lower learning rate"):
        LearnedGrid(scale, zero_point, (0, 255))


def test_weight_scales_are_refused_when_one_is_not_positive() -> None:
    with pytest.raises(CalibrationError, match="lower learning rate"):
        LearnedScales(np.array([1.0, -1.0], np.float32), 127)
