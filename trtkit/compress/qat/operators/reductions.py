"""Reductions over axes, which are an attribute in older opsets and an input in newer ones; ArgMax, TopK, CumSum."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TypeAlias

import torch

from trtkit.compress.qat.operators.registry import Kernel, Node, Operator

__all__ = ["REDUCTIONS"]

_Reduce: TypeAlias = Callable[[torch.Tensor, Sequence[int], bool], torch.Tensor]
"""(tensor, axes, whether reduced axes stay with size 1) -> reduced."""


def _sum(x: torch.Tensor, axes: Sequence[int], keep: bool) -> torch.Tensor:
    return x.sum(axes, keepdim=keep, dtype=x.dtype)


def _mean(x: torch.Tensor, axes: Sequence[int], keep: bool) -> torch.Tensor:
    return x.mean(axes, keepdim=keep)


def _prod(x: torch.Tensor, axes: Sequence[int], keep: bool) -> torch.Tensor:
    for axis in sorted((axis % x.dim() for axis in axes), reverse=True):
        x = x.prod(axis, keepdim=keep, dtype=x.dtype)
    return x


def _l2(x: torch.Tensor, axes: Sequence[int], keep: bool) -> torch.Tensor:
    return torch.linalg.vector_norm(x, 2, axes, keepdim=keep)


def _reducing(reduce: _Reduce) -> Operator:
    def make(node: Node) -> Kernel:
        fixed, keep = node.get("axes"), bool(node.get("keepdims", 1))
        unchanged = bool(node.get("noop_with_empty_axes", 0))

        def run(x: torch.Tensor, axes: torch.Tensor | None = None) -> torch.Tensor:
            chosen = fixed if axes is None else axes.tolist()
            if not chosen and unchanged:
                return x
            return reduce(x, chosen or list(range(x.dim())), keep) if x.dim() else reduce(x[None], [0], False)

        return run

    return Operator(make, host=(1,))


def _extreme(function: Callable[..., torch.Tensor]) -> Operator:
    def make(node: Node) -> Kernel:
        axis, keep, last = node.get("axis", 0), bool(node.get("keepdims", 1)), node.get("select_last_index", 0)

        def run(x: torch.Tensor) -> torch.Tensor:
            if not last:
                return function(x, dim=axis, keepdim=keep)
            return x.shape[axis] - 1 - function(x.flip(axis), dim=axis, keepdim=keep)

        return run

    return Operator(make)


def _top_k(node: Node) -> Kernel:
    axis, largest, in_order = node.get("axis", -1), bool(node.get("largest", 1)), bool(node.get("sorted", 1))
    return lambda x, k: torch.topk(x, int(k.item()), axis, largest, in_order)


def _cum_sum(node: Node) -> Kernel:
    exclusive, reverse = node.get("exclusive", 0), node.get("reverse", 0)

    def run(x: torch.Tensor, axis: torch.Tensor) -> torch.Tensor:
        dim = int(axis.item())
        source = x.flip(dim) if reverse else x
        total = source.cumsum(dim, dtype=x.dtype)
        total = total - source if exclusive else total
        return total.flip(dim) if reverse else total

    return run


REDUCTIONS: Mapping[str, Operator] = MappingProxyType({
    "ReduceSum": _reducing(_sum),
    "ReduceMean": _reducing(_mean),
    "ReduceProd": _reducing(_prod),
    "ReduceMax": _reducing(lambda x, axes, keep: x.amax(axes, keepdim=keep)),
    "ReduceMin": _reducing(lambda x, axes, keep: x.amin(axes, keepdim=keep)),
    "ReduceL1": _reducing(lambda x, axes, keep: _sum(x.abs(), axes, keep)),
    "ReduceL2": _reducing(_l2),
    "ReduceSumSquare": _reducing(lambda x, axes, keep: _sum(x * x, axes, keep)),
    "ReduceLogSum": _reducing(lambda x, axes, keep: _sum(x, axes, keep).log()),
    "ReduceLogSumExp": _reducing(lambda x, axes, keep: torch.logsumexp(x, axes, keepdim=keep)),
    "ArgMax": _extreme(torch.argmax),
    "ArgMin": _extreme(torch.argmin),
    "TopK": Operator(_top_k, host=(1,)),
    "CumSum": Operator(_cum_sum, host=(1,)),
})
