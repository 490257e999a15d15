"""Narrow convolutions of coarse inputs stay in float: both conditions, and where nothing is known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx
import pytest

from trtkit.precision import Estimator, QuantSpec
from trtkit.quant.index import GraphIndex
from trtkit.quant.placement import get_placement
from trtkit.quant.scales.grids import Grid, activation_grid
from trtkit.quant.static.narrow import coarse_layers, grid_sqnr_db
from trtkit.quant.static.qdq import insert_qdq
from trtkit.ranges import CalibrationTable, Histogram

TRT, U8 = get_placement("tensorrt"), get_placement("onnxruntime-u8")
MINMAX = QuantSpec(estimator=Estimator.MINMAX)


@pytest.fixture
def net(make: Callable[..., onnx.ModelProto]) -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    return make("""g (float[1,64,4,4] x) => (float[1,64,4,4] y) {
        a = Conv<group=64,pads=[1,1,1,1]>(x, d)\n b = Conv(a, p)\n y = Conv<pads=[1,1,1,1]>(b, w) }""",
                d=rng.normal(size=(64, 1, 3, 3)), p=rng.normal(size=(64, 64, 1, 1)) / 8,
                w=rng.normal(size=(64, 64, 3, 3)) / 24)


def table_of(**outliers: float) -> CalibrationTable:
    """Return counts of normal values with one outlier a tensor."""
    values = np.random.default_rng(1).normal(size=10_000)
    return CalibrationTable({name: Histogram.of(np.append(values, far)) for name, far in outliers.items()}, 1, "", "",
                            "")


@pytest.mark.parametrize(("a", "b", "kept"), [
    pytest.param(3.0, 3.0, set(), id="fine"),
    pytest.param(60.0, 3.0, {"Conv_1"}, id="coarse-and-narrow"),
    pytest.param(3.0, 60.0, set(), id="coarse-and-wide"),
])
def test_narrow_convolution_of_a_coarse_input_stays_in_float(net: onnx.ModelProto, a: float, b: float,
                                                             kept: set[str]) -> None:
    table = table_of(x=3.0, a=a, b=b)
    assert coarse_layers(GraphIndex(net), table, TRT, MINMAX) == kept
    assert coarse_layers(GraphIndex(net), table, U8, MINMAX) == set()
    _, report = insert_qdq(net, table, TRT, MINMAX)
    assert (report.weights, report.kept) == (3 - len(kept), 0)


def test_layers_are_not_judged_when_nothing_is_known(net: onnx.ModelProto) -> None:
    bare = CalibrationTable({"a": Histogram.of_range(-60, 60), "x": Histogram.of(np.zeros(4))}, 1, "", "", "")
    assert coarse_layers(GraphIndex(net), bare, TRT, MINMAX) == set()


def test_grid_sqnr_follows_the_step() -> None:
    values = np.random.default_rng(0).uniform(-1, 1, 100_000)
    histogram = Histogram.of(values)
    for bits in (6, 7):
        grid = Grid(np.float32(1 / (2**(bits - 1) - 1)), 0, (-127, 127))
        noise = float(grid.scale) ** 2 / 12
        assert grid_sqnr_db(histogram, grid) == pytest.approx(10 * np.log10((values**2).mean() / noise), abs=0.3)
    coarse = activation_grid(CalibrationTable({"x": histogram}, 1, "", "", ""), "x", replace(TRT), MINMAX)
    assert grid_sqnr_db(histogram, coarse) > 40
