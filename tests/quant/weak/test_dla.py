"""Which nodes a DLA runs, and which scales it wants equal."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx
import pytest

from trtkit.precision import Precision
from trtkit.quant import lower
from trtkit.quant.weak.dla import dla_coverage, tie_scales
from trtkit.ranges.cache import parse_cache
from trtkit.target import get_target

Make = Callable[..., onnx.ModelProto]

W = np.ones((8, 8, 3, 3), np.float32)
LIMITS = {"zero": np.float32(0), "six": np.float32(6), "many": np.float32(200)}


@pytest.mark.parametrize(("node", "weights", "says"), [
    pytest.param("y = Conv<pads=[1,1,1,1]>(x, w)", {"w": W}, "", id="conv"),
    pytest.param("y = Conv<strides=[9,9]>(x, w)", {"w": W}, "stride 9 is outside 1 to 8", id="conv-stride"),
    pytest.param("y = Conv(x, w)", {"w": np.ones((8, 8, 33, 1), np.float32)}, "kernel size 33", id="conv-kernel"),
    pytest.param("y = Conv<pads=[3,1,1,1]>(x, w)", {"w": W}, "padding not below the kernel", id="conv-padding"),
    pytest.param("y = ConvTranspose<strides=[2,2]>(x, w)", {"w": W}, "", id="transposed"),
    pytest.param("y = ConvTranspose<pads=[1,1,1,1]>(x, w)", {"w": W}, "with padding", id="transposed-padding"),
    pytest.param("y = ConvTranspose<group=8>(x, w)", {"w": W[:, :1]}, "with groups", id="transposed-groups"),
    pytest.param("y = MaxPool<kernel_shape=[3,3]>(x)", {}, "", id="pool"),
    pytest.param("y = MaxPool<kernel_shape=[9,9]>(x)", {}, "pooling window 9", id="pool-window"),
    pytest.param("y = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1]>(x)", {}, "leaves the padding out",
                 id="pool-exclusive"),
    pytest.param("y = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1], count_include_pad=1>(x)", {}, "",
                 id="pool-inclusive"),
    pytest.param("y = GlobalAveragePool(x)", {}, "pooling window 40", id="global-pool-wide"),
    pytest.param("y = Clip(x, zero, six)", LIMITS, "", id="relu6"),
    pytest.param("y = Clip(x, zero, many)", LIMITS, "Clip that is not from 0", id="clip"),
    pytest.param("y = Concat<axis=1>(x, x)", {}, "", id="concat"),
    pytest.param("y = Concat<axis=2>(x, x)", {}, "another axis", id="concat-axis"),
    pytest.param("y = Resize(x, , sc)", {"sc": np.float32([1, 1, 2, 2])}, "", id="resize"),
    pytest.param("y = Resize(x, , sc)", {"sc": np.float32([1, 1, 1.5, 2])}, "by a fraction", id="resize-fraction"),
    pytest.param('y = Resize<mode="linear">(x, , sc)', {"sc": np.float32([1, 1, 8, 8])}, "Resize factor 8",
                 id="resize-linear"),
    pytest.param("y = Softmax<axis=1>(x)", {}, "beside other dimensions", id="softmax"),
    pytest.param("y = PRelu(x, w)", {"w": np.ones((8, 1, 1), np.float32)}, "", id="prelu"),
    pytest.param("y = Mul(x, w)", {"w": np.float32(2)}, "", id="mul-by-constant"),
    pytest.param("y = Erf(x)", {}, "Erf", id="not-in-the-table"),
])
def test_coverage_follows_the_limits_of_each_operator(make: Make, node: str, weights: dict[str, np.ndarray],
                                                      says: str) -> None:
    coverage = dla_coverage(make(f"g (float[1,8,40,40] x) => (float[N,C,H,V] y) {{ {node} }}", **weights))
    assert coverage.nodes == 1
    reasons: Sequence[str] = list(coverage.on_gpu.values())
    assert says in reasons[0] if says else not reasons


def test_softmax_runs_on_orin_alone_and_only_along_channels(make: Make) -> None:
    model = make("g (float[1,8,1,1] x) => (float[1,8,1,1] y) { y = Softmax<axis=1>(x) }")
    assert not dla_coverage(model, "8.7").on_gpu
    assert list(dla_coverage(model, "7.2").on_gpu.values()) == ["Softmax on Xavier"]


def test_coverage_counts_pieces_and_leaves_shape_arithmetic_out(make: Make) -> None:
    coverage = dla_coverage(make("""g (float[N,8,8,8] x) => (float[A,B,C,D] y) {
        a = Relu(x)\n b = Erf(a)\n c = Relu(b)\n s = Shape(c)\n y = Reshape(c, t) }""", t=np.array([-1, 8, 8, 8])))
    assert (coverage.nodes, coverage.pieces) == (4, 2)
    assert str(coverage) == "DLA runs 3 of 4 nodes in 2 pieces; GPU: 1 x Erf"


def test_tie_scales_makes_concat_and_pooling_agree_and_leaves_others_alone(make: Make) -> None:
    model = make("""g (float[1,8,8,8] x) => (float[1,16,4,4] y, float[1,8,8,8] z) {
        a = Relu(x)\n b = Sigmoid(x)\n c = Concat<axis=1>(a, b)\n y = MaxPool<kernel_shape=[2,2], strides=[2,2]>(c)
        z = Add(a, b)\n }""")
    scales = {"x": 9.0, "a": 1.0, "b": 2.0, "c": 4.0, "y": 3.0, "z": 0.5}
    assert tie_scales(model, scales) == {"x": 9.0, "a": 4.0, "b": 4.0, "c": 4.0, "y": 4.0, "z": 0.5}


@pytest.mark.parametrize(("name", "tied"), [("orin-dla", True), ("jetson-xavier-jp5", False)])
def test_lowering_ties_scales_and_tells_the_coverage_where_there_is_a_dla(
        make: Make, feeds: Callable[..., list[dict[str, np.ndarray]]], table: Callable[..., object], name: str,
        tied: bool) -> None:
    model = make("""g (float[1,8,8,8] x) => (float[1,16,8,8] y) {
        a = Conv<pads=[1,1,1,1]>(x, w)\n b = Sigmoid(a)\n y = Concat<axis=1>(a, b) }""", w=W)
    lowered = lower(model, get_target(name), Precision.INT8, table=table(model, feeds(model)))
    scales = parse_cache(lowered.cache or b"")
    assert (scales["a"] == scales["b"] == scales["y"]) == tied
    assert any("DLA runs 3 of 3 nodes in 1 piece" in note for note in lowered.notes) == tied
