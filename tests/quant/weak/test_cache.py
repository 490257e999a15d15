"""Calibration table -> scales of a cache, and a cache made elsewhere -> table."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest

from trtkit.errors import CalibrationError
from trtkit.precision import Estimator, Precision, QuantSpec
from trtkit.quant import lower
from trtkit.quant.index import GraphIndex
from trtkit.quant.weak.cache import cache_scales, cover_fused, table_from_cache
from trtkit.ranges import CalibrationTable, Histogram, estimate
from trtkit.ranges.cache import format_cache, parse_cache
from trtkit.target import get_target

MINMAX = QuantSpec(estimator=Estimator.MINMAX)
NET = """g (float[1,4,4,4] x) => (float[1,64] y) {
    a = Conv(x, w)\n r = Relu(a)\n p = MaxPool<kernel_shape=[2,2], strides=[2,2]>(r)\n b = Conv(p, w)
    f = Reshape(b, s)\n y = Gemm<transB=1>(f, v) }"""


def test_cover_fused_reaches_a_convolution_through_its_sum(make: Callable[..., onnx.ModelProto]) -> None:
    index = GraphIndex(make("""g (float[1,4,4,4] x) => (float[1,4,4,4] y) {
        a = Conv(x, w)\n b = Add(a, x)\n y = Relu(b) }""", w=np.ones((4, 4, 1, 1))))
    assert cover_fused(index, {"x": 1.0, "y": 2.0}) == {"x": 1.0, "y": 2.0, "a": 2.0, "b": 2.0}


@pytest.fixture
def net(make: Callable[..., onnx.ModelProto]) -> onnx.ModelProto:
    random = np.random.default_rng(3)
    return make(NET, w=random.normal(size=(4, 4, 1, 1)), s=np.array([1, 16]), v=random.normal(size=(64, 16)))


def test_cache_scales_are_amax_by_127() -> None:
    tensors = {"x": Histogram.of(np.array([-2.54, 1.0])), "zero": Histogram.of(np.zeros(3)), "none": Histogram.empty()}
    scales = cache_scales(CalibrationTable(tensors, 1, "", "", ""), MINMAX)
    assert scales == {"x": pytest.approx(0.02), "zero": pytest.approx(1 / 127)}


def test_cover_fused_gives_the_layer_the_scale_of_its_activation(make: Callable[..., onnx.ModelProto]) -> None:
    index = GraphIndex(make("""g (float[1,4,4,4] x) => (float[1,4,4,4] y) {
        a = Conv(x, w)\n r = Relu(a)\n b = Conv(r, w)\n s = Sigmoid(b)\n y = Relu(s) }""", w=np.ones((4, 4, 1, 1))))
    scales = {"x": 1.0, "r": 2.0, "b": 3.0, "y": 5.0, "s": 4.0}
    assert cover_fused(index, scales) == {**scales, "a": 2.0}


def test_cache_becomes_a_table_that_gives_the_same_cache_again(
        net: onnx.ModelProto, feeds: Callable[..., list[dict[str, np.ndarray]]],
        table: Callable[..., CalibrationTable]) -> None:
    xavier = get_target("jetson-xavier-jp5")
    first = lower(net, xavier, Precision.INT8, table=table(net, feeds(net)), spec=MINMAX)
    assert first.cache is not None
    converted, missing = table_from_cache(net, first.cache)
    assert (missing, converted.samples) == ((), 0)
    assert converted.data.startswith("cache-")
    for estimator in Estimator:
        again = lower(net, xavier, Precision.INT8, table=converted, spec=QuantSpec(estimator, bias_correction=False))
        assert parse_cache(again.cache or b"") == pytest.approx(parse_cache(first.cache), rel=1e-6)


def test_cache_quantizes_for_a_cpu_with_the_low_end_that_the_operators_allow(net: onnx.ModelProto) -> None:
    cache = format_cache(dict.fromkeys(("x", "r", "p", "b", "f", "y"), 2.0 / 127), "10.3")
    converted, _ = table_from_cache(net, cache)
    ranges = {name: estimate(converted.tensors[name], Estimator.MSE, symmetric=False) for name in ("x", "r", "p", "f")}
    assert ranges == {name: (pytest.approx(low), pytest.approx(2.0))
                      for name, low in {"x": -2.0, "r": 0.0, "p": 0.0, "f": -2.0}.items()}
    lowered = lower(net, get_target("x86-vnni"), Precision.INT8, table=converted)
    assert b"QuantizeLinear" in lowered.model


def test_cache_gives_a_moved_tensor_the_range_of_its_source_and_names_what_is_missing(net: onnx.ModelProto) -> None:
    converted, missing = table_from_cache(net, format_cache({"x": 0.0, "b": 1.0}, "10.3"))
    assert converted.tensors["f"].amax == pytest.approx(127.0)
    assert converted.tensors["x"].amax == 1.0  # all zero there; every grid holds it
    assert set(missing) == {"r", "p", "y"}


def test_cache_of_another_model_is_refused(net: onnx.ModelProto) -> None:
    with pytest.raises(CalibrationError, match="None of the cache's 1 tensors, such as 'other'"):
        table_from_cache(net, format_cache({"other": 1.0}, "10.3"))


def test_bare_ranges_survive_the_table_file(net: onnx.ModelProto) -> None:
    converted, _ = table_from_cache(net, format_cache({"x": 0.5}, "8.5.2"))
    assert CalibrationTable.from_bytes(converted.to_bytes()) == converted


@pytest.mark.parametrize("precision", [Precision.FP8, Precision.INT8_FP16, Precision.FP16], ids=lambda each: each.value)
def test_bare_ranges_serve_every_precision_that_reads_ranges(net: onnx.ModelProto, precision: Precision) -> None:
    names = ("x", "r", "p", "b", "f", "y")
    usual, _ = table_from_cache(net, format_cache(dict.fromkeys(names, 0.1), "10.3"))
    huge, _ = table_from_cache(net, format_cache(dict.fromkeys(names, 1e4), "10.3"))  # 1.27e6, beyond FP16
    thor = get_target("jetson-thor")
    assert lower(net, thor, precision, table=usual).notes != lower(net, thor, precision, table=huge).notes
