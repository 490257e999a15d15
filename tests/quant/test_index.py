"""Producers, readers and constants of a graph."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest

from trtkit.errors import GraphError
from trtkit.quant.index import GraphIndex, attribute, hide_initializers, node_name, subgraph_reads

Make = Callable[..., onnx.ModelProto]

IF = """g (float[1,2,4,4] x, bool[1] c) => (float[1,2,4,4] y) {
    a = Conv(x, w)
    r = Relu(a)
    y = If(c) <then_branch = yes () => (float[1,2,4,4] u) { u = Neg(a) },
               else_branch = no () => (float[1,2,4,4] v) { v = Identity(r) }> }"""


def test_subgraph_reads_name_what_an_if_captures(make: Make) -> None:
    model = make(IF, w=np.ones((2, 2, 1, 1)))
    assert {"a", "r"} <= set(subgraph_reads(model.graph.node[2]))
    assert {"a", "r"} <= GraphIndex(model).captured


def test_only_reader_is_none_when_a_subgraph_reads_too(make: Make) -> None:
    index = GraphIndex(make(IF, w=np.ones((2, 2, 1, 1))))
    assert index.only_reader("x").op_type == "Conv"
    assert index.only_reader("a") is None


def test_only_reader_is_none_when_the_tensor_is_an_output(make: Make) -> None:
    index = GraphIndex(make("g (float[2] x) => (float[2] a, float[2] y) { a = Neg(x)\n y = Relu(a) }"))
    assert index.only_reader("a") is None
    assert index.activation_after(index.nodes[0], ("Relu",)) is None


def test_activation_after_finds_the_listed_operators_only(make: Make) -> None:
    index = GraphIndex(make("g (float[2] x) => (float[2] y) { a = Neg(x)\n b = Relu(a)\n y = Sigmoid(b) }"))
    assert index.activation_after(index.nodes[0], ("Relu", "Clip")).op_type == "Relu"
    assert index.activation_after(index.nodes[1], ("Relu", "Clip")) is None


@pytest.mark.parametrize(("node", "bounds"), [
    pytest.param("Relu(x)", (0, np.inf), id="relu"),
    pytest.param("Clip(x, zero, six)", (0, 6), id="both"),
    pytest.param("Clip(x, , six)", (-np.inf, 6), id="upper"),
    pytest.param("Clip(x, zero)", (0, np.inf), id="lower"),
    pytest.param("Clip(x, zero, most)", None, id="computed"),
    pytest.param("Clip(x, zero, vector)", (0, 6), id="bound-of-shape-1"),
])
def test_clip_bounds(make: Make, node: str, bounds: tuple[float, float] | None) -> None:
    index = GraphIndex(make(f"g (float[2] x, float most) => (float[2] y) {{ y = {node} }}", zero=0.0, six=6.0,
                            vector=np.array([6.0])))
    assert index.clip_bounds(index.nodes[0]) == bounds


def test_is_float_tells_types_apart_and_fails_clearly_when_one_is_unknown(make: Make) -> None:
    model = make("g (float[2,3] x) => (int64[2] y) { y = Shape(x) }", w=1.0, i=np.int64(1))
    index = GraphIndex(model)
    assert [index.is_float(name) for name in ("x", "y", "w", "i")] == [True, False, True, False]
    with pytest.raises(GraphError, match=r"type of tensor 'nowhere'.*trtkit rewrite"):
        index.is_float("nowhere")


def test_new_name_evades_what_is_taken(make: Make) -> None:
    index = GraphIndex(make("g (float[2] x) => (float[2] y) { y = Mul(x, x_scale) }", x_scale=1.0))
    assert [index.new_name(name) for name in ("x_scale", "x_scale", "y", "new")] == [
        "x_scale_1", "x_scale_2", "y_1", "new"]


def test_hide_initializers_leaves_what_is_fed(make: Make) -> None:
    model = make("g (float[2] x, float[2] w) => (float[2] y) { y = Mul(x, w) }", w=np.ones(2))
    model.ir_version = 3
    hide_initializers(model)
    assert [info.name for info in model.graph.input] == ["x"]
    onnx.checker.check_model(model)


def test_attribute_and_node_name_have_defaults() -> None:
    node = onnx.helper.make_node("Conv", ["x", "w"], ["y"], group=3)
    assert (attribute(node, "group", 1), attribute(node, "strides", [1])) == (3, [1])
    assert node_name(node) == "y"
