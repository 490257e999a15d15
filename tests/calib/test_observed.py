from collections.abc import Callable

import onnx
import pytest
from onnx import parser

from trtkit.calib.observed import find_observed

HEADER = '<ir_version: 9, opset_import: ["" : 17]>\n'


def observed(text: str) -> tuple[set[str], dict[str, str]]:
    found = find_observed(parser.parse_model(HEADER + text))
    return set(found.tensors), found.copies


@pytest.mark.parametrize(("activation", "counted"), [
    ("Relu(a)", {"y"}), ("Clip(a)", {"y"}), ("HardSwish(a)", {"a", "y"}), ("Sigmoid(a)", {"a", "y"})], ids=str)
def test_conv_output_is_left_out_only_before_an_activation_that_fuses(activation: str, counted: set[str]) -> None:
    tensors, _ = observed(f"g (float[N,3,8,8] x, float[4,3,1,1] w) => (float[N,4,8,8] y) {{ a = Conv(x, w)  "
                          f"y = {activation} }}")
    assert tensors == counted


def test_conv_output_is_counted_when_read_twice_or_given_out() -> None:
    body = "{ a = Conv(x, w)  y = Relu(a)  z = Add(y, a) }"
    assert "a" in observed(f"g (float[1,3,8,8] x, float[4,3,1,1] w) => (float[1,4,8,8] z) {body}")[0]
    body = "{ a = Conv(x, w)  y = Relu(a) }"
    assert "a" in observed(f"g (float[1,3,8,8] x, float[4,3,1,1] w) => (float[1,4,8,8] y, float[1,4,8,8] a) {body}")[0]


def test_moved_values_are_copied_and_not_counted_again() -> None:
    tensors, copies = observed("g (float[2,3,4] x) => (float[4,6] y) { a = Sigmoid(x)  "
                               "b = Transpose<perm=[2,0,1]>(a)  s = Constant<value_ints=[4,6]>()  y = Reshape(b, s) }")
    assert tensors == {"a"}
    assert copies == {"b": "a", "y": "a"}


def test_moved_input_is_a_copy_of_the_input() -> None:
    assert observed("g (float[2,3] x) => (float[6] y) { s = Constant<value_ints=[6]>()  y = Reshape(x, s) }") == (
        set(), {"y": "x"})


def test_shape_arithmetic_integers_and_constants_are_left_out() -> None:
    tensors, copies = observed(
        "g (float[N,3] x, int64[N] i) => (float[N,3] y, float[2] t) { s = Shape(x)  f = Cast<to=1>(s)  "
        "c = Constant<value_float=2.0>()  t = Mul(f, c)  j = Add(i, i)  e = Gather(x, j)  y = Mul(e, c) }")
    assert tensors == {"e", "y"}
    assert copies == {}


def test_what_a_subgraph_reads_is_counted() -> None:
    tensors, _ = observed(
        "g (float[1,3,8,8] x, float[4,3,1,1] w, bool b) => (float[1,4,8,8] y) { a = Conv(x, w)  r = Relu(a)  "
        "y = If(b) <then_branch = t () => (float[1,4,8,8] p) { p = Abs(a) }, "
        "else_branch = e () => (float[1,4,8,8] q) { q = Neg(r) }> }")
    assert {"a", "r", "y"} == tensors


def test_residual_model_counts_both_inputs_of_the_add(make_model: Callable[..., onnx.ModelProto]) -> None:
    assert find_observed(make_model()).tensors == ("relu1", "conv2", "relu2", "pooled", "logits")
