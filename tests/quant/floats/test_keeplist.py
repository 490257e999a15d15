"""What stays in FP32, and the reason that is given."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import onnx
import pytest

from trtkit.quant.floats.half import BF16, FP16, HalfFormat
from trtkit.quant.floats.keeplist import FP32_OPS, fp32_nodes, keep_notes
from trtkit.quant.index import GraphIndex
from trtkit.ranges import CalibrationTable, Histogram

Make = Callable[..., onnx.ModelProto]


def reasons(model: onnx.ModelProto, half: HalfFormat = FP16, opset: int = 17, **values: object) -> dict[str, str]:
    """Return what stays, with a table of these values by tensor."""
    tensors = {name: Histogram.of(np.asarray(value, np.float32)) for name, value in values.items()}
    return fp32_nodes(GraphIndex(model), half, opset, CalibrationTable(tensors, 1, "", "", "") if values else None)


def test_fp32_operators_are_real_ones() -> None:
    assert {schema.name for schema in onnx.defs.get_all_schemas()} | {"RMSNormalization"} >= FP32_OPS


@pytest.mark.parametrize(("values", "says"), [
    pytest.param([-4e4, 1.0], "reaches 4e\\+04, FP16 ends at 6.55e\\+04", id="overflow"),
    pytest.param([1e-7, -2e-7], "is too small: 1e\\+02 % of it lie below FP16's 6.1e-05", id="underflow"),
    pytest.param([np.nan, 1.0], "is not finite in FP32 either", id="nan"),
])
def test_node_stays_when_a_tensor_leaves_the_range(make: Make, values: list[float], says: str) -> None:
    model = make("g (float[2] x) => (float[2] y) { a = Neg(x)\n b = Relu(a)\n y = Neg(b) }")
    found = reasons(model, x=[1.0], a=values, b=[1.0], y=[1.0])
    assert set(found) == {"Neg_0", "Relu_1"}
    for why in found.values():
        assert re.match(f"'a' {says}", why)


def test_node_goes_to_fp16_when_tiny_values_stand_beside_large_ones(make: Make) -> None:
    """As in the output of Softmax: what is flushed is nothing beside the rest."""
    model = make("g (float[2] x) => (float[2] y) { y = Neg(x) }")
    assert reasons(model, x=np.r_[np.full(999, 1e-9), 0.5], y=[0.0]) == {}


def test_divisor_and_its_producer_stay_when_it_may_be_flushed_to_zero(make: Make) -> None:
    model = make("g (float[2] x, float[2] z) => (float[2] y) { a = Abs(x)\n b = Neg(z)\n y = Div(b, a) }")
    found = reasons(model, x=[1.0], z=[1.0], b=[1.0], y=[1.0], a=[1e-9, 1.0])
    assert found == {"Abs_0": "makes what Div_2 divides by",
                     "Div_2": "'a' divides, and 50 % of it lie below FP16's 6.1e-05"}
    assert reasons(model, x=[1.0], z=[1.0], b=[1e-9, 1.0], y=[1.0], a=[0.5, 1.0]) == {}


def test_bf16_has_the_range_of_fp32(make: Make) -> None:
    model = make("g (float[2] x) => (float[2] y) { y = Neg(x) }", opset=22)
    assert reasons(model, BF16, 22, x=[1e30, 1e-30], y=[-1e30]) == {}


def test_bf16_leaves_what_the_opset_does_not_define(make: Make) -> None:
    model = make("g (float[1,2,4,4] x) => (float[1,2,4,4] y) { a = Relu(x)\n y = Conv(a, w) }", w=np.ones((2, 2, 1, 1)))
    assert reasons(model, BF16) == {"Conv_1": "Conv has no BF16 form in opset 17 or in TensorRT"}
    assert reasons(model, BF16, 22) == {}


CHAIN = """d = Sub(x, m)\n m2 = {square}\n v = ReduceMean<axes=[-1]>(m2)\n e = Add(v, eps)\n s = {root}\n"""


@pytest.mark.parametrize(("square", "root", "end", "inside"), [
    pytest.param("Mul(d, d)", "Sqrt(e)", "q = Div(d, s)", 7, id="mul-sqrt-div"),
    pytest.param("Pow(d, two)", "Sqrt(e)", "r = Reciprocal(s)\n q = Mul(d, r)", 8, id="pow-reciprocal"),
    pytest.param("Pow(d, two)", "Pow(e, minus)", "q = Mul(d, s)", 7, id="rsqrt"),
])
def test_variance_stays_in_fp32_as_a_whole(make: Make, square: str, root: str, end: str, inside: int) -> None:
    text = ("g (float[2,8] z) => (float[2,8] y) { x = Neg(z)\n m = ReduceMean<axes=[-1]>(x)\n "
            + CHAIN.format(square=square, root=root) + end + "\n y = Neg(q) }")
    model = make(text, eps=1e-5, two=2.0, minus=-0.5)
    found = reasons(model)
    assert len(found) == inside
    assert set(found.values()) == {"a variance and what it divides"}
    assert not {name for name in found if name.startswith("Neg")}


def test_root_of_something_else_is_no_variance(make: Make) -> None:
    model = make("g (float[2,8] x) => (float[2,8] y) { a = Add(x, one)\n s = Sqrt(a)\n y = Div(x, s) }", one=1.0)
    assert reasons(model) == {"Sqrt_1": "Sqrt needs range or digits"}


def test_softmax_in_pieces_stays_in_fp32(make: Make) -> None:
    model = make("""g (float[2,8] x) => (float[2,8] y) {
        n = Neg(x)\n m = ReduceMax<axes=[-1]>(n)\n d = Sub(n, m)\n e = Exp(d)\n s = ReduceSum(e, axis)
        p = Div(e, s)\n y = Neg(p) }""", axis=np.array([-1]))
    assert reasons(model) == dict.fromkeys(("Sub_2", "Exp_3", "ReduceSum_4", "Div_5"), "a softmax in pieces")


def test_notes_count_the_nodes_and_name_them_by_reason() -> None:
    assert keep_notes({"a": "why", "b": "who", "c": "why"}) == (
        "3 nodes stay in FP32", "in FP32, why: a, c", "in FP32, who: b")
    assert keep_notes({}) == ("no node stays in FP32",)
