"""Coupled channels -> those that can go: a trace can be wrong, so each set is tried before any is trusted.

Taking a channel away must do what setting it to zero does. Sets for which the two disagree, or without which the
module no longer runs or gives another shape, are spared with the reason: reshapes to sizes that are written out,
shuffled channels, weights that are shared, the outputs themselves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from trtkit.compress.pruning.channels import Coupled, clone, group_of, run, trace, without
from trtkit.export.adapter import evaluating
from trtkit.export.exporters import reason
from trtkit.export.inputs import Inputs

__all__ = ["unsound"]

_RTOL = 1e-3
"""Largest difference accepted, as a share of an output's peak: FP32 sums in another order stay far below."""


def unsound(module: nn.Module, inputs: Inputs, sets: Sequence[Coupled], first: Mapping[str, Sequence[int]],
            ) -> dict[str, str]:
    """Return the sets that must keep their channels, with the reason.

    Args:
        module: Unchanged.
        inputs: Of one forward; other values of the same shapes are tried as well.
        sets: Coupled channels of the module.
        first: For each set, the units that would go first.

    Raises:
        ExportError: The module cannot be copied or traced.
    """
    refused = {each.name: f"{each.normalized} takes its statistics over it" for each in sets
               if each.normalized not in (None, "GroupNorm", "InstanceNorm1d", "InstanceNorm2d")}
    tried = [each for each in sets if each.name not in refused and first.get(each.name)]
    with evaluating(module):
        whole = [tuple(tensor.shape) for tensor in run(module, inputs)]
    refused.update(_bisected(module, inputs.varied(1), tried, first, whole))
    return refused


def _bisected(module: nn.Module, inputs: Inputs, sets: Sequence[Coupled], first: Mapping[str, Sequence[int]],
              shapes: list[tuple[int, ...]]) -> dict[str, str]:
    """Return the sets that fail: try all at once, then halves of what fails."""
    if not sets:
        return {}
    fault = _fault(module, inputs, sets, first, shapes)
    if fault is None:
        return {}
    if len(sets) == 1:
        return {sets[0].name: fault}
    middle = len(sets) // 2
    found = {**_bisected(module, inputs, sets[:middle], first, shapes),
             **_bisected(module, inputs, sets[middle:], first, shapes)}
    return found or {each.name: f"together with others: {fault}" for each in sets}


def _fault(module: nn.Module, inputs: Inputs, sets: Sequence[Coupled], first: Mapping[str, Sequence[int]],
           shapes: list[tuple[int, ...]]) -> str | None:
    """Return why these sets cannot lose their first units; None when they can."""
    gone = {each.name: first[each.name] for each in sets}
    try:
        pruned = without(module, inputs, {each.name: each for each in sets}, gone)
        with evaluating(pruned):
            got = run(pruned, inputs)
    except Exception as err:
        if isinstance(err, MemoryError):
            raise
        return f"the module fails without channels of it ({reason(err)})"
    if [tuple(tensor.shape) for tensor in got] != shapes:
        return "it gives the module's output"
    if any(each.normalized == "GroupNorm" for each in sets):
        return None
    zeroed = _zeroed(module, inputs, sets, gone)
    with evaluating(zeroed):
        wanted = run(zeroed, inputs)
    for one, other in zip(got, wanted):
        peak = float(other.abs().max()) if other.numel() else 0.0
        if not torch.allclose(one.double(), other.double(), rtol=0.0, atol=_RTOL * max(peak, 1e-12)):
            return "taking channels of it away does not do what setting them to zero does"
    return None


def _zeroed(module: nn.Module, inputs: Inputs, sets: Sequence[Coupled], gone: Mapping[str, Sequence[int]]) -> nn.Module:
    """Return a copy in which the channels are zero where they are made and where they are read."""
    copied = clone(module)
    graph = trace(copied, inputs)
    with torch.no_grad():
        for each in sets:
            channels = [channel for unit in gone[each.name] for channel in each.units[unit]]
            for dep, indices in group_of(graph, each.name, channels):
                layer = dep.target.module
                if isinstance(layer, nn.Module) and layer in graph.module2node:
                    _zero(layer, list(indices), outputs=graph.is_out_channel_pruning_fn(dep.handler))
    return copied


def _zero(layer: nn.Module, indices: list[int], *, outputs: bool) -> None:
    weight, bias = getattr(layer, "weight", None), getattr(layer, "bias", None)
    if not isinstance(weight, torch.Tensor):
        return
    transposed = getattr(layer, "transposed", False)
    if outputs or weight.ndim == 1:
        weight.index_fill_(1 if transposed and weight.ndim > 1 else 0, _index(indices, weight), 0.0)
        if isinstance(bias, torch.Tensor):
            bias.index_fill_(0, _index(indices, bias), 0.0)
    elif weight.ndim > 1:
        axis = 0 if transposed else 1
        weight.index_fill_(axis, _index([index % weight.shape[axis] for index in indices], weight), 0.0)


def _index(indices: list[int], like: torch.Tensor) -> torch.Tensor:
    return torch.tensor(indices, dtype=torch.long, device=like.device)
