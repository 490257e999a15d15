"""QOperator nodes (integers in, integers out) as data: which float operator each is, and where its grids stand.

    QLinearConv(x, s_x, z_x, w, s_w, z_w, s_y, z_y, b)  =  Q(Conv(DQ(x), DQ(w), b * s_x * s_w))
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

__all__ = ["QOPERATORS", "QOperator", "operands"]


@dataclass(frozen=True)
class QOperator:
    """One integer operator.

    Attributes:
        op_type: The float operator.
        operands: Input numbers of (values, scale, zero point) of each operand; () for those of a Concat.
        output: Input numbers of the scale and zero point of the output.
        bias: Input number of the INT32 bias, of scale s_x * s_w; 0 where there is none.
        weight_axis: Axis of the weight's scales when there are several.
        attributes: Attributes that the float operator has, too.
    """

    op_type: str
    operands: tuple[tuple[int, int, int], ...]
    output: tuple[int, int]
    bias: int = 0
    weight_axis: int | None = None
    attributes: tuple[str, ...] = ()


_WINDOW = ("auto_pad", "dilations", "group", "kernel_shape", "pads", "strides", "ceil_mode", "count_include_pad")
_ONE, _TWO = ((0, 1, 2),), ((0, 1, 2), (3, 4, 5))

QOPERATORS = MappingProxyType({
    "QLinearConv": QOperator("Conv", _TWO, (6, 7), bias=8, weight_axis=0, attributes=_WINDOW),
    "QLinearMatMul": QOperator("MatMul", _TWO, (6, 7), weight_axis=-1),
    "QGemm": QOperator("Gemm", _TWO, (7, 8), bias=6, weight_axis=-1, attributes=("alpha", "transA", "transB")),
    "QLinearAdd": QOperator("Add", _TWO, (6, 7)),
    "QLinearMul": QOperator("Mul", _TWO, (6, 7)),
    "QLinearConcat": QOperator("Concat", (), (0, 1), attributes=("axis",)),
    "QLinearGlobalAveragePool": QOperator("GlobalAveragePool", _ONE, (3, 4)),
    "QLinearAveragePool": QOperator("AveragePool", _ONE, (3, 4), attributes=_WINDOW),
    "QLinearSigmoid": QOperator("Sigmoid", _ONE, (3, 4)),
    "QLinearLeakyRelu": QOperator("LeakyRelu", _ONE, (3, 4), attributes=("alpha",)),
    "QLinearSoftmax": QOperator("Softmax", _ONE, (3, 4), attributes=("axis",)),
})
"""Source: ONNX operator specifications; ONNX Runtime, ContribOperators.md."""


def operands(node: Any) -> tuple[tuple[int, int, int], ...]:
    """Return the input numbers of (values, scale, zero point) of each operand of a node."""
    fixed = QOPERATORS[node.op_type].operands
    return fixed or tuple((first, first + 1, first + 2) for first in range(2, len(node.input), 3))
