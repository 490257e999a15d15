"""Values picked and put by indices; negative indices count from the end."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import torch
import torch.nn.functional as F

from trtkit.compress.qat.operators.registry import Kernel, Node, Operator, apply

__all__ = ["INDEXING"]


def _counted(indices: torch.Tensor, size: int) -> torch.Tensor:
    """Return indices as int64, those below 0 counted from the end."""
    indices = indices.long()
    return torch.where(indices < 0, indices + size, indices)


def _gather(node: Node) -> Kernel:
    axis = node.get("axis", 0)

    def run(x: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
        dim = axis % x.dim()
        places = _counted(indices, x.shape[dim])
        picked = x.index_select(dim, places.reshape(-1))
        return picked.reshape((*x.shape[:dim], *places.shape, *x.shape[dim + 1:]))

    return run


def _gather_elements(node: Node) -> Kernel:
    axis = node.get("axis", 0)
    return lambda x, indices: torch.gather(x, axis, _counted(indices, x.shape[axis]))


def _gather_nd(node: Node) -> Kernel:
    if node.get("batch_dims", 0):
        node.refuse(f"its batch_dims is {node.get('batch_dims')}; only 0 has a form here")
    return lambda x, indices: x[tuple(indices.long().unbind(-1))]


def _scatter_elements(node: Node) -> Kernel:
    axis = node.get("axis", 0)
    if node.get("reduction", "none") != "none":
        node.refuse(f"its reduction is '{node.get('reduction')}'; only 'none' has a form here")
    return lambda x, indices, updates: x.scatter(axis, _counted(indices, x.shape[axis]), updates)


def _scatter_nd(node: Node) -> Kernel:
    reduction = node.get("reduction", "none")
    if reduction not in ("none", "add"):
        node.refuse(f"its reduction is '{reduction}'; only 'none' and 'add' have a form here")
    return lambda x, indices, updates: x.index_put(tuple(indices.long().unbind(-1)), updates, reduction == "add")


def _one_hot(node: Node) -> Kernel:
    axis = node.get("axis", -1)

    def run(indices: torch.Tensor, depth: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        size = int(depth.item())
        hot = (_counted(indices, size).unsqueeze(-1) == torch.arange(size, device=indices.device))
        return torch.where(hot, values[1], values[0]).movedim(-1, axis)

    return run


_SAMPLING = {"linear": "bilinear", "bilinear": "bilinear", "nearest": "nearest", "cubic": "bicubic",
             "bicubic": "bicubic"}


def _grid_sample(node: Node) -> Kernel:
    mode, padding = _SAMPLING[node.get("mode", "linear")], node.get("padding_mode", "zeros")
    aligned = bool(node.get("align_corners", 0))
    return lambda x, grid: F.grid_sample(x, grid, mode, padding, aligned)


INDEXING: Mapping[str, Operator] = MappingProxyType({
    "Gather": Operator(_gather, trained=(0,)),
    "GatherElements": Operator(_gather_elements),
    "GatherND": Operator(_gather_nd),
    "ScatterElements": Operator(_scatter_elements),
    "ScatterND": Operator(_scatter_nd),
    "OneHot": Operator(_one_hot, host=(1,)),
    "GridSample": Operator(_grid_sample),
    "NonZero": apply(lambda x: torch.nonzero(x).t()),
})
