"""The zeros in each layer's weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from trtkit.errors import GraphError
from trtkit.graph import check_two_four, layer_sparsity


def sparse(shape: tuple[int, ...], axis: int) -> np.ndarray:
    """Return weights of which two of four along an axis are 0."""
    dense = np.random.default_rng(0).uniform(1, 7, shape)
    last = np.moveaxis(dense, axis, -1)
    fours = last.reshape(-1, 4).copy()
    fours[::2, :2] = 0
    fours[1::2, 1:3] = 0
    return np.ascontiguousarray(np.moveaxis(fours.reshape(last.shape), -1, axis), np.float32)


def model(nodes: str, **arrays: np.ndarray) -> onnx.ModelProto:
    made = onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["" : 21]> g (float[N,8,8,8] x, float[N,8] v) => (float y) {{ {nodes} }}')
    made.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in arrays.items())
    return made


@pytest.mark.parametrize(("node", "shape", "axis", "channels"), [
    ("y = Conv(x, w)", (12, 8, 3, 3), 1, (8, 12)),
    ("y = Conv(x, w)", (12, 8, 3), 1, (8, 12)),
    ("y = MatMul(v, w)", (8, 12), 0, (8, 12)),
    ("y = MatMul(w, v)", (12, 8), 1, (8, 12)),
    ("y = MatMul(v, w)", (2, 8, 12), 1, (8, 12)),
    ("y = Gemm(v, w)", (8, 12), 0, (8, 12)),
    ("y = Gemm<transB=1>(v, w)", (12, 8), 1, (8, 12)),
    ("t = Transpose<perm=[1,0]>(w) y = MatMul(v, t)", (12, 8), 1, (8, 12)),
    ("t = Cast<to=10>(w) y = MatMul(v, t)", (8, 12), 0, (8, 12)),
], ids=["Conv", "Conv1d", "MatMul", "weight first", "batched", "Gemm", "transB", "Transpose", "Cast"])
def test_layer_is_two_four_when_two_of_four_inputs_are_zero(
        node: str, shape: tuple[int, ...], axis: int, channels: tuple[int, int]) -> None:
    layer, = layer_sparsity(model(node, w=sparse(shape, axis)))
    assert (layer.inputs, layer.outputs) == channels
    assert layer.is_two_four
    assert not layer.is_wide
    assert layer.zeros == 0.5
    spoilt = sparse(shape, axis)
    spoilt.reshape(-1)[np.flatnonzero(spoilt == 0)[0]] = 1
    layer, = layer_sparsity(model(node, w=spoilt))
    assert not layer.is_two_four
    assert 0 < layer.dense_fours < 0.1


def test_layer_is_not_two_four_when_zeros_lie_along_the_outputs() -> None:
    weight = np.ones((12, 8, 1, 1), np.float32)
    weight[::2] = 0
    layer, = layer_sparsity(model("y = Conv(x, w)", w=weight))
    assert layer.is_eligible
    assert not layer.is_two_four


@pytest.mark.parametrize(("node", "shape", "why"), [
    ("y = Conv(x, w)", (12, 6, 3, 3), "its 6 input channels are no multiple of 4"),
    ("y = Conv<group=2>(x, w)", (12, 4, 3, 3), "grouped"),
    ("y = Conv<group=8>(x, w)", (8, 1, 3, 3), "grouped"),
    ("y = ConvTranspose(x, w)", (8, 12, 3, 3), "no sparse kernel for ConvTranspose"),
    ("y = Conv(x, w)", (12, 8, 3, 3, 3), "in three dimensions"),
], ids=["no fours", "grouped", "depthwise", "ConvTranspose", "3D"])
def test_layer_is_not_eligible_with_the_reason(node: str, shape: tuple[int, ...], why: str) -> None:
    layer, = layer_sparsity(model(node, w=np.zeros(shape, np.float32)))
    assert why in layer.hindrance
    assert not layer.is_two_four
    assert layer.zeros == 1.0


@pytest.mark.parametrize(("dtype", "zero"), [("int8", None), ("int8", 0), ("uint8", 128)],
                         ids=["no zero point", "symmetric", "uint8"])
def test_integer_weights_are_zero_at_their_zero_point(dtype: str, zero: int | None) -> None:
    weight = sparse((12, 8, 1, 1), 1).round()
    arrays: dict[str, Any] = {"w": (weight + (zero or 0)).astype(dtype), "s": np.full(12, 0.1, np.float32)}
    if zero is not None:
        arrays["z"] = np.full(12, zero, dtype)
    last = "" if zero is None else ", z"
    layer, = layer_sparsity(model(f"d = DequantizeLinear<axis=0>(w, s{last}) y = Conv(x, d)", **arrays))
    assert layer.is_two_four
    assert layer.zeros == 0.5


def test_blocks_have_zero_points_of_their_own() -> None:
    weight, zero = sparse((8, 12), 0).round(), np.arange(24).reshape(2, 12) % 5 + 1
    arrays = {"w": (weight + np.repeat(zero, 4, 0)).astype(np.uint8), "z": zero.astype(np.uint8),
              "s": np.ones((2, 12), np.float32)}
    layer, = layer_sparsity(model("d = DequantizeLinear<axis=0, block_size=4>(w, s, z) y = MatMul(v, d)", **arrays))
    assert layer.is_two_four


def test_float_weights_are_read_through_their_q_dq_pair() -> None:
    arrays = {"w": sparse((12, 8, 1, 1), 1), "s": np.array(0.1, np.float32), "z": np.array(0, np.int8)}
    layer, = layer_sparsity(model("q = QuantizeLinear(w, s, z) d = DequantizeLinear(q, s, z) y = Conv(x, d)", **arrays))
    assert layer.is_two_four


def test_products_of_activations_are_no_layers() -> None:
    assert layer_sparsity(model("y = MatMul(v, v)")) == ()


def test_constant_nodes_are_weights() -> None:
    made = model("y = MatMul(v, w)")
    made.graph.node.insert(0, helper.make_node("Constant", [], ["w"], value=numpy_helper.from_array(sparse((8, 4), 0))))
    assert layer_sparsity(made)[0].is_two_four


def test_layers_are_wide_from_256_channels_both_ways() -> None:
    wide = model("y = MatMul(v, w)", w=np.zeros((256, 256), np.float32))
    assert layer_sparsity(wide)[0].is_wide
    assert not layer_sparsity(model("y = MatMul(v, w)", w=np.zeros((256, 252), np.float32)))[0].is_wide


def test_check_two_four_returns_the_sparse_layers_or_tells_what_is_left_of_them() -> None:
    good = model("y = MatMul(v, w)", w=sparse((8, 12), 0))
    assert [layer.inputs for layer in check_two_four(good, 1)] == [8]
    spoilt = sparse((8, 12), 0)
    spoilt[:3, 0] = 1
    with pytest.raises(GraphError, match=r"0 layers .* are 2:4 sparse, 1 should be. Nearest: y \(4.2% of its fours"):
        check_two_four(model("y = MatMul(v, w)", w=spoilt), 1)
