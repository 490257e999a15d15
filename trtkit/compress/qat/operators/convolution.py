"""Convolutions and matrix products: the nodes that hold most weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
import torch.nn.functional as F

from trtkit.compress.qat.operators.registry import Kernel, Node, Operator
from trtkit.compress.qat.operators.windows import Window, split_pads, torch_pads

__all__ = ["CONVOLUTION"]

_CONV: Mapping[int, Callable[..., torch.Tensor]] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TRANSPOSED: Mapping[int, Callable[..., torch.Tensor]] = {1: F.conv_transpose1d, 2: F.conv_transpose2d,
                                                         3: F.conv_transpose3d}


def _conv(node: Node) -> Kernel:
    window, groups = Window.of(node), node.get("group", 1)

    def run(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        rank = weight.dim() - 2
        begins, ends = window.ends(x.shape[2:], weight.shape[2:])
        if begins != ends or min(begins) < 0:  # torch pads both sides alike
            x, begins = F.pad(x, torch_pads(begins, ends)), [0] * rank
        return _CONV[rank](x, weight, bias, window.strides or 1, begins, window.dilations or 1, groups)

    return run


def _conv_transpose(node: Node) -> Kernel:
    window, groups = Window.of(node), node.get("group", 1)
    extra, shape = node.get("output_padding"), node.get("output_shape")

    def run(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        rank = weight.dim() - 2
        strides, dilations = window.strides or [1] * rank, window.dilations or [1] * rank
        more = list(extra or [0] * rank)
        sizes = [stride * (size - 1) + add + (kernel - 1) * dilation + 1 for size, kernel, stride, dilation, add
                 in zip(x.shape[2:], weight.shape[2:], strides, dilations, more)]
        begins, ends = _crops(window, sizes, [size * stride for size, stride in zip(x.shape[2:], strides)], shape)
        whole = begins == ends and min(begins) >= 0
        y = _TRANSPOSED[rank](x, weight, bias, strides, begins if whole else 0, more, groups, dilations)
        return y if whole else F.pad(y, [-pad for pad in torch_pads(begins, ends)])

    return run


def _crops(window: Window, sizes: list[int], scaled: list[int], shape: list[int] | None) -> tuple[list[int], list[int]]:
    """Return how much the full output loses before and behind (ONNX, ConvTranspose: how pads follow output_shape)."""
    same = window.auto_pad.startswith("SAME")
    if shape is None and not same:
        return split_pads(window.pads, len(sizes))
    totals = [size - wanted for size, wanted in zip(sizes, shape[-len(sizes):] if shape else scaled)]
    halves = [total // 2 for total in totals]
    rests = [total - half for total, half in zip(totals, halves)]
    return (halves, rests) if window.auto_pad == "SAME_UPPER" else (rests, halves)


def _gemm(node: Node) -> Kernel:
    alpha, beta = node.get("alpha", 1.0), node.get("beta", 1.0)
    left, right = node.get("transA", 0), node.get("transB", 0)
    linear = alpha == 1 and beta == 1 and not left and right

    def run(a: torch.Tensor, b: torch.Tensor, c: torch.Tensor | None = None) -> torch.Tensor:
        if linear and (c is None or c.dim() == 1):
            return F.linear(a, b, c)
        a, b = a.t() if left else a, b.t() if right else b
        if c is None:
            return a @ b if alpha == 1 else alpha * (a @ b)
        return torch.addmm(c, a, b, beta=beta, alpha=alpha)

    return run


def _einsum(node: Node) -> Kernel:
    equation = node.get("equation")
    return lambda *tensors: torch.einsum(equation, *tensors)


CONVOLUTION: Mapping[str, Operator] = MappingProxyType({
    "Conv": Operator(_conv, trained=(1, 2)),
    "ConvTranspose": Operator(_conv_transpose, trained=(1, 2)),
    "Gemm": Operator(_gemm, trained=(0, 1, 2)),
    "MatMul": Operator(lambda node: torch.matmul, trained=(0, 1)),
    "Einsum": Operator(_einsum, trained=(0, 1)),
})
