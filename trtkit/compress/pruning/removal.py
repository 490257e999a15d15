"""Scores -> the order in which channels leave, in blocks that keep every layer's width aligned."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from trtkit.compress.pruning.channels import Coupled
from trtkit.compress.pruning.spec import PruneSpec, Scope

__all__ = ["Block", "fewest", "gone_after", "removal_order"]


@dataclass(frozen=True)
class Block:
    """Units that leave together.

    Attributes:
        name: Of their set of coupled channels.
        units: Their numbers.
    """

    name: str
    units: tuple[int, ...]


def removal_order(sets: Sequence[Coupled], scores: Mapping[str, torch.Tensor], spec: PruneSpec,
                  original: Mapping[str, int]) -> list[Block]:
    """Return every block that may leave, the least important first.

    A block holds as many units as keep the width a multiple of `spec.round_to`; the first one of a set also takes what
    is over. With Scope.GLOBAL blocks compete by the mean score of their units, with Scope.LOCAL by the share of their
    set that is gone with them.

    Args:
        sets: Coupled channels; those without scores keep everything.
        scores: Importance of each unit, by the name of the set.
        spec: Alignment, scope, and the largest share of a layer to take.
        original: Channels of each set before the first step, by name.
    """
    ranked = []
    for each in sets:
        if each.name not in scores:
            continue
        order = torch.argsort(scores[each.name], stable=True).tolist()
        width, taken, before = len(each.units[0]), 0, original.get(each.name, each.channels)
        for size in _block_sizes(each, spec, before):
            units = tuple(order[taken:taken + size])
            taken += size
            gone = 1.0 - (each.channels - taken * width) / before
            mean = float(scores[each.name][list(units)].mean())
            ranked.append((gone if spec.scope is Scope.LOCAL else mean, Block(each.name, units)))
    return [block for _, block in sorted(ranked, key=lambda one: one[0])]


def _block_sizes(each: Coupled, spec: PruneSpec, before: int) -> list[int]:
    """Return the units of each block that leaves a width that is allowed."""
    width = len(each.units[0])
    least = max(width, spec.round_to, before * (1.0 - spec.max_layer_amount))
    over = each.channels % spec.round_to
    size = spec.round_to // math.gcd(spec.round_to, width)
    sizes = [over // width] if over and over % width == 0 else []
    if over and not sizes:
        return []
    while each.channels - (sum(sizes) + size) * width >= least:
        sizes.append(size)
    return sizes if not sizes or each.channels - sizes[0] * width >= least else []


def gone_after(blocks: Sequence[Block]) -> dict[str, list[int]]:
    """Return the units that have left each set once `blocks` have."""
    gone: dict[str, list[int]] = {}
    for block in blocks:
        gone.setdefault(block.name, []).extend(block.units)
    return gone


def fewest(count: int, enough: Callable[[int], bool]) -> int:
    """Return the fewest of 0 to `count` blocks for which `enough` holds, by bisection; `count` when it never does."""
    low, high = 0, count
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle + 1, high)
    return low
