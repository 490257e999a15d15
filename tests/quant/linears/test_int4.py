"""INT4 weights: layout, what is left, and what rounding buys."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from trtkit.errors import SpecError
from trtkit.graph import run_model
from trtkit.metrics import sqnr_db
from trtkit.precision import NodeSelector, Precision, QuantSpec, Rounding
from trtkit.quant import lower
from trtkit.quant.linears.int4 import insert_int4
from trtkit.quant.scales.blocks import quantize_blocks
from trtkit.target import get_target

Make = Callable[..., onnx.ModelProto]
MakeFeeds = Callable[..., list[dict[str, np.ndarray]]]

NEAREST = Rounding.NEAREST


@pytest.fixture
def products(make: Make, rng: np.random.Generator) -> onnx.ModelProto:
    return make("""g (float[3,96] x) => (float[3,64] y) {
        a = MatMul(x, w)\n r = Relu(a)\n b = Gemm<transB=1>(r, v, c)\n y = Gemm(b, u) }""", opset=21,
                w=rng.normal(size=(96, 128)), v=rng.normal(size=(64, 128)), c=rng.normal(size=64),
                u=rng.normal(size=(64, 64)))


def test_every_product_reads_blocks_along_k(products: onnx.ModelProto, feeds: MakeFeeds) -> None:
    made, notes = insert_int4(products, block=32, rounding=NEAREST)
    onnx.checker.check_model(made, full_check=True)
    assert notes == ("3 weights in INT4, blocks of 32, nearest rounding",)
    shapes = {t.name: (list(t.dims), t.data_type) for t in made.graph.initializer}
    assert shapes["w_int4"] == ([96, 128], TensorProto.INT4)
    assert shapes["v_int4"] == ([128, 64], TensorProto.INT4)  # turned around
    assert shapes["v_scale"] == ([4, 64], TensorProto.FLOAT)
    for node in made.graph.node:
        if node.op_type == "DequantizeLinear":
            assert {item.name: item.i for item in node.attribute} == {"axis": 0, "block_size": 32}
        assert "transB" not in {item.name for item in node.attribute}
    feed = feeds(products)[0]
    weights = {t.name: onnx.numpy_helper.to_array(t) for t in products.graph.initializer}
    w, u = (quantize_blocks(weights[name], 32, NEAREST, symmetric=True).dequantized() for name in "wu")
    v = quantize_blocks(weights["v"].T, 32, NEAREST, symmetric=True).dequantized()
    expected = (np.maximum(feed["x"] @ w, 0) @ v + weights["c"]) @ u
    np.testing.assert_allclose(run_model(made, feed, optimize=False)["y"], expected, rtol=5e-3, atol=0.5)


def test_source_stays_as_it_was(products: onnx.ModelProto) -> None:
    before = products.SerializeToString()
    insert_int4(products, block=32, rounding=NEAREST)
    assert products.SerializeToString() == before


@pytest.mark.parametrize(("shape", "options", "says"), [
    pytest.param((120, 64), {}, "K = 120 is no multiple of 16", id="odd-k"),
    pytest.param((32, 32), {}, "32 x 32 elements are too few to gain", id="small"),
    pytest.param((128, 64), {"keep": NodeSelector(op_types=("MatMul",))}, "asked for", id="kept"),
])
def test_weight_is_left_when_it_does_not_fit(make: Make, shape: tuple[int, int], options: dict[str, NodeSelector],
                                             says: str) -> None:
    model = make(f"g (float[3,{shape[0]}] x) => (float[3,{shape[1]}] y) {{ y = MatMul(x, w) }}", opset=21,
                 w=np.ones(shape))
    made, notes = insert_int4(model, block=32, rounding=NEAREST, **options)
    assert notes[1] == f"weights left, {says}: MatMul_0"
    assert [t.data_type for t in made.graph.initializer] == [TensorProto.FLOAT]


def test_smaller_block_is_taken_when_it_alone_divides_k(make: Make) -> None:
    model = make("g (float[3,240] x) => (float[3,64] y) { y = MatMul(x, w) }", opset=21, w=np.ones((240, 64)))
    made, _ = insert_int4(model, block=128, rounding=NEAREST)
    assert {t.name: list(t.dims) for t in made.graph.initializer}["w_scale"] == [15, 64]


def test_shared_weight_is_stored_once(make: Make, rng: np.random.Generator) -> None:
    model = make("g (float[3,64] x) => (float[3,64] y) { a = MatMul(x, w)\n y = MatMul(a, w) }", opset=21,
                 w=rng.normal(size=(64, 64)))
    made, _ = insert_int4(model, block=16, rounding=NEAREST)
    assert [node.op_type for node in made.graph.node] == ["DequantizeLinear", "MatMul", "MatMul"]
    assert {t.name for t in made.graph.initializer} == {"w_int4", "w_scale"}


def test_selector_that_matches_nothing_is_refused(products: onnx.ModelProto) -> None:
    with pytest.raises(SpecError, match="'Conv' matches no node's operator"):
        insert_int4(products, block=32, rounding=NEAREST, keep=NodeSelector(op_types=("Conv",)))


def test_adaptive_rounding_keeps_more_of_the_output(products: onnx.ModelProto, feeds: MakeFeeds) -> None:
    feed = feeds(products)[0]
    expected = run_model(products, feed)["y"]
    found = {}
    for rounding in Rounding:
        lowered = lower(products, get_target("rtx"), Precision.INT4, spec=QuantSpec(rounding=rounding))
        found[rounding] = float(sqnr_db(expected, run_model(lowered.simulation, feed, optimize=False)["y"]))
    assert found[Rounding.ADAPTIVE] > found[Rounding.NEAREST] + 0.3
