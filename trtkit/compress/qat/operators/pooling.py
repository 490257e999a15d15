"""Pooling over windows and over whole feature maps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import torch
import torch.nn.functional as F

from trtkit.compress.qat.operators.registry import Kernel, Node, Operator, apply
from trtkit.compress.qat.operators.windows import Window, torch_pads

__all__ = ["POOLING"]

_AVERAGE: Mapping[int, Callable[..., torch.Tensor]] = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}
_MAX: Mapping[int, Callable[..., torch.Tensor]] = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}


def _max_pool(node: Node) -> Kernel:
    node.one_output()
    window, kernel, ceil = Window.of(node), list(node.get("kernel_shape")), bool(node.get("ceil_mode", 0))
    pool, strides, dilations = _MAX[len(kernel)], window.strides or [1] * len(kernel), window.dilations or 1

    def run(x: torch.Tensor) -> torch.Tensor:
        begins, ends = window.ends(x.shape[2:], kernel)
        if _torch_pads_so(begins, ends, kernel):
            return pool(x, kernel, strides, begins, dilations, ceil)
        return pool(F.pad(x, torch_pads(begins, ends), value=-torch.inf), kernel, strides, 0, dilations, ceil)

    return run


def _average_pool(node: Node) -> Kernel:
    window, kernel, ceil = Window.of(node), list(node.get("kernel_shape")), bool(node.get("ceil_mode", 0))
    pool, strides = _AVERAGE[len(kernel)], window.strides or [1] * len(kernel)
    counts_pads = bool(node.get("count_include_pad", 0))
    if any(dilation != 1 for dilation in window.dilations):
        node.refuse(f"its dilations are {window.dilations}, torch averages neighbours only")

    def run(x: torch.Tensor) -> torch.Tensor:
        begins, ends = window.ends(x.shape[2:], kernel)
        if _torch_pads_so(begins, ends, kernel):
            return pool(x, kernel, strides, begins, ceil, counts_pads)
        pads = torch_pads(begins, ends)
        means = pool(F.pad(x, pads), kernel, strides, 0, ceil)
        if counts_pads:
            return means
        return means / pool(F.pad(torch.ones_like(x[:1, :1]), pads), kernel, strides, 0, ceil)

    return run


def _torch_pads_so(begins: Sequence[int], ends: Sequence[int], kernel: Sequence[int]) -> bool:
    """Whether a pooling of torch adds this padding itself: both sides alike, half a kernel at most."""
    return begins == ends and all(0 <= 2 * pad <= size for pad, size in zip(begins, kernel))


POOLING: Mapping[str, Operator] = MappingProxyType({
    "MaxPool": Operator(_max_pool),
    "AveragePool": Operator(_average_pool),
    "GlobalAveragePool": apply(lambda x: x.mean(tuple(range(2, x.dim())), keepdim=True)),
    "GlobalMaxPool": apply(lambda x: x.amax(tuple(range(2, x.dim())), keepdim=True)),
})
