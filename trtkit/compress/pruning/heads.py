"""Attention heads among coupled channels: a head goes whole or not at all, and what counts heads is told.

Half a head would change the attention's scale and its reshapes. A module that holds query, key and value projections
names its heads in attributes; the names below are those of transformers, timm and torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import nn

__all__ = ["Heads", "head_tables", "heads_of"]

_COUNTS = ("num_heads", "num_attention_heads", "n_heads", "n_head", "nhead", "heads")
_SIZES = ("head_dim", "attention_head_size", "dim_head")
_WIDTHS = ("all_head_size", "inner_dim", "attn_dim")


@dataclass(frozen=True)
class Heads:
    """The heads of one attention module.

    Attributes:
        module: Name of the attention module.
        count: Heads.
        size: Channels of one head.
    """

    module: str
    count: int
    size: int

    def drop(self, root: nn.Module, gone: Sequence[int]) -> None:
        """Bring counts and tables of a module whose projections lost heads into line.

        Args:
            root: The module that holds the attention, changed in place.
            gone: Numbers of the heads that are gone.
        """
        attention = root.get_submodule(self.module)
        kept = torch.tensor([head for head in range(self.count) if head not in set(gone)])
        for table, name in _tables(attention, self.count):
            old = getattr(table, name)
            new = old.detach().index_select(-1, kept.to(old.device))
            setattr(table, name, nn.Parameter(new, requires_grad=old.requires_grad))
        for name in _COUNTS:
            if getattr(attention, name, None) == self.count:
                setattr(attention, name, len(kept))
        for name in _WIDTHS:
            if getattr(attention, name, None) == self.count * self.size:
                setattr(attention, name, len(kept) * self.size)


def heads_of(root: nn.Module, layers: Sequence[str], channels: int) -> Heads | None:
    """Return the heads that the coupled projections `layers` make, or None when they make none.

    Args:
        root: The whole module.
        layers: Names of the layers whose outputs are coupled.
        channels: Of one of query, key and value.
    """
    for parent in dict.fromkeys(name.rpartition(".")[0] for name in layers):
        attention = root.get_submodule(parent)
        count = _first_int(attention, _COUNTS)
        size = _first_int(attention, _SIZES) or (channels // count if count else None)
        if size and channels % size == 0 and (count is None or count * size == channels):
            return Heads(parent, channels // size, size)
    return None


def head_tables(root: nn.Module) -> list[nn.Parameter]:
    """Return the parameters with a column for each head, such as Swin's relative position bias tables."""
    tables = []
    for module in root.modules():
        count = _first_int(module, _COUNTS)
        if count:
            tables += [getattr(table, name) for table, name in _tables(module, count)]
    return tables


def _tables(attention: nn.Module, heads: int) -> Iterator[tuple[nn.Module, str]]:
    for module in attention.modules():
        if isinstance(module, (nn.Linear, nn.Embedding, nn.LayerNorm, nn.MultiheadAttention)):
            continue
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.ndim == 2 and parameter.shape[-1] == heads:
                yield module, name


def _first_int(module: nn.Module, names: Sequence[str]) -> int | None:
    values = (getattr(module, name, None) for name in names)
    return next((value for value in values if isinstance(value, int) and value > 0), None)
