"""Multiply-accumulates of weighted nodes, against counts by hand."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest

from trtkit.quant.budget.macs import count_macs

Make = Callable[..., onnx.ModelProto]

CONVOLUTION = """g (float[N,4,H,W] x) => (float[N,C,P,Q] y) {{ y = {node} (x, w) }}"""


@pytest.mark.parametrize(("node", "weight", "macs"), [
    ("Conv<pads=[1,1,1,1]>", (6, 4, 3, 3), 6 * 8 * 10 * 4 * 9),
    ("Conv<strides=[2,2]>", (6, 4, 2, 2), 6 * 4 * 5 * 4 * 4),
    ("Conv<group=4, pads=[1,1,1,1]>", (4, 1, 3, 3), 4 * 8 * 10 * 9),
    ("ConvTranspose<strides=[2,2]>", (4, 6, 2, 2), 4 * 8 * 10 * 6 * 4),
], ids=["conv", "strided", "depthwise", "transposed"])
def test_macs_of_convolutions_follow_from_the_sizes_of_a_sample(make: Make, node: str, weight: tuple[int, ...],
                                                                macs: int) -> None:
    model = make(CONVOLUTION.format(node=node), w=np.ones(weight))
    assert list(count_macs(model, {"x": (1, 4, 8, 10)}).values()) == [macs]
    assert list(count_macs(model, {"x": (3, 4, 8, 10)}).values()) == [3 * macs]


def test_macs_of_matrix_products_count_both_kinds_of_operands(make: Make) -> None:
    model = make("""g (float[N,T,8] x) => (float[N,T,T] z) {
        y = MatMul(x, w)
        t = Transpose<perm=[0,2,1]>(y)
        z = MatMul(y, t) }""", w=np.ones((8, 16)))
    assert count_macs(model, {"x": (1, 5, 8)}) == {"MatMul_0": 5 * 16 * 8, "MatMul_2": 5 * 5 * 16}


def test_macs_of_gemm_heed_its_transposed_operand(make: Make) -> None:
    model = make("g (float[8,N] x) => (float[N,3] y) { y = Gemm<transA=1>(x, w) }", w=np.ones((8, 3)))
    assert count_macs(model, {"x": (8, 2)}) == {"Gemm_0": 2 * 3 * 8}


def test_macs_are_zero_when_a_shape_depends_on_the_data(make: Make) -> None:
    model = make("""g (float[4] x) => (float[2,N] y) {
        n = NonZero(x)
        f = Cast<to=1>(n)
        t = Transpose(f)
        p = MatMul(t, w)
        y = Transpose(p) }""", w=np.ones((1, 2)))
    assert count_macs(model, {"x": (4,)}) == {"MatMul_3": 0}
