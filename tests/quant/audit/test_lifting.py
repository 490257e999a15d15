"""Whatever form a model was quantized in, the same float model comes out of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from trtkit.errors import GraphError
from trtkit.metrics import cosine
from trtkit.quant.audit.lifting import Lifted, lift, prepare

Make = Callable[..., onnx.ModelProto]
Answers = Callable[[onnx.ModelProto], np.ndarray]
FORMS = ("uint8", "uint8 weights", "int8", "symmetric", "own pairs", "qoperator", "dynamic")


def lifted(model: onnx.ModelProto) -> Lifted:
    return lift(prepare(model))


def operators(model: onnx.ModelProto) -> list[str]:
    return sorted(node.op_type for node in model.graph.node if node.op_type != "Identity")


@pytest.mark.parametrize("form", FORMS)
def test_lift_gives_the_float_network_back(form: str, quantized: Callable[[str], onnx.ModelProto], network: Path,
                                           answers: Answers) -> None:
    before, after = onnx.load(network), lifted(quantized(form)).model
    other = {"Relu", "Clip", "Constant", "Reshape", "Add"}
    expected = ["MatMul" if op == "Gemm" and form == "dynamic" else op for op in operators(before) if op not in other]
    assert [op for op in operators(after) if op not in other] == sorted(expected)
    assert cosine(answers(before), answers(after)) > 0.9995


@pytest.mark.parametrize("form", ["uint8", "own pairs", "qoperator", "symmetric"])
def test_lift_puts_dropped_activations_back_once(form: str, quantized: Callable[[str], onnx.ModelProto]) -> None:
    assert len([op for op in operators(lifted(quantized(form)).model) if op in ("Relu", "Clip")]) == 2


GRID_FROM_ZERO = {"s": np.float32(0.02), "z": np.uint8(0)}


@pytest.mark.parametrize(("high", "restored"), [(6.0, "Clip"), (4.0, "Relu"), (20.0, "Relu")])
def test_lift_restores_relu6_when_the_widest_grid_ends_at_6(high: float, restored: str, make: Make) -> None:
    model = make("g (float[1,4] x) => (float[1,4] y) { m = Neg(x) q = QuantizeLinear(m, s, z)"
                 " y = DequantizeLinear(q, s, z) }", s=np.float32(high / 255), z=np.uint8(0))
    result = lifted(model).model
    assert [node.op_type for node in result.graph.node][:2] == ["Neg", restored]


@pytest.mark.parametrize("op", ["Sigmoid", "Abs", "Relu"])
def test_lift_adds_no_relu_when_the_tensor_cannot_be_negative(op: str, make: Make) -> None:
    model = make(f"g (float[1,4] x) => (float[1,4] y) {{ m = {op}(x) q = QuantizeLinear(m, s, z)"
                 " d = DequantizeLinear(q, s, z) y = Neg(d) }", **GRID_FROM_ZERO)
    assert operators(lifted(model).model) == sorted([op, "Neg"])


def test_lift_tells_the_grid_of_each_operand(conv: Make) -> None:
    found = lifted(conv())
    data, weight = found.reads["c", 0], found.reads["c", 1]
    assert (data.dtype, data.axis, weight.axis, weight.dtype) == ("int8", None, 0, "int8")
    assert data.range == pytest.approx((-127 * 0.03, 127 * 0.03))
    assert ("c", 2) not in found.reads
    assert [len(steps) for steps in found.writes.values()] == [1]


def test_lift_names_weights_that_are_stored_as_float(conv: Make, rng: np.random.Generator) -> None:
    model = conv(("wd = DequantizeLinear<axis=0>(w", "wq = QuantizeLinear<axis=0>(w, ws, wz)"
                  "\n wd = DequantizeLinear<axis=0>(wq"), w=rng.standard_normal((16, 16, 3, 3)) / 10)
    assert lifted(model).float_stored == ["w"]


def test_lift_keeps_what_a_subgraph_reads(make: Make) -> None:
    model = make("""g (float[1,4] x, bool c) => (float[1,4] y) {
        q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z)
        y = If(c) <then_branch = t () => (float[1,4] a) { a = Neg(d) }, else_branch = e () => (float[1,4] b) {
        b = Abs(d) }> }""", s=np.float32(0.1), z=np.int8(0))
    result = lifted(model).model
    assert [node.op_type for node in result.graph.node] == ["Identity", "If"]
    onnx.checker.check_model(result)


def test_lift_refuses_integers_as_an_output(make: Make) -> None:
    model = make("g (float[1,4] x) => (uint8[1,4] y) { y = QuantizeLinear(x, s, z) }", **GRID_FROM_ZERO)
    with pytest.raises(GraphError, match="Output 'y' is quantized"):
        lifted(model)


def test_lift_refuses_a_graph_in_onnx_runtimes_own_layout() -> None:
    model = onnx.parser.parse_model('<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]>'
                                    "g (uint8[1,4,4,3] x) => (uint8[1,1,1,3] y) { y = com.microsoft."
                                    "QLinearGlobalAveragePool<channels_last=1>(x, s, z, s, z) }")
    for name, value in GRID_FROM_ZERO.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(value), name))
    with pytest.raises(GraphError, match="channels-last"):
        lifted(model)


def test_lift_pads_with_the_number_that_a_zero_point_stands_for(make: Make, answers: Answers) -> None:
    model = make("g (float[1,3,8,8] x) => (float[1,5,8,8] y) { q = QuantizeLinear(x, s, z) p = Pad(q, pads, z)"
                 " d = DequantizeLinear(p, s, z) y = Neg(d) }", s=np.float32(0.05), z=np.uint8(100),
                 pads=np.array([0, 0, 0, 0, 0, 2, 0, 0]))
    result = lifted(model).model
    assert operators(result) == ["Neg", "Pad"]
    found = answers(result)
    assert found.shape[1:] == (5, 8, 8)
    np.testing.assert_array_equal(found[:, 3:], 0)
    np.testing.assert_allclose(found, answers(model), atol=0.026)
