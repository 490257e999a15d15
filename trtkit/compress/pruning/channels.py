"""A module -> the sets of channels that can only go together, and the module without some of them.

A channel that leaves a convolution leaves everything behind it: BatchNorm, the layers that read it, the other side of
a residual addition. Torch-Pruning's dependency graph (Fang et al. 2023, "DepGraph") finds them by a trace.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from trtkit._optional import require
from trtkit.compress.pruning.heads import Heads, head_tables, heads_of
from trtkit.compress.pruning.weights import CONVOLUTIONS
from trtkit.errors import ExportError, TrtkitError
from trtkit.export.adapter import Adapter
from trtkit.export.exporters import reason
from trtkit.export.inputs import Inputs

__all__ = ["Coupled", "adapted", "clone", "coupled_channels", "group_of", "run", "trace", "without"]


@dataclass(frozen=True)
class Coupled:
    """Channels that are coupled over several layers.

    Attributes:
        name: Layer whose output channels number them.
        layers: All layers that give these channels, `name` among them.
        channels: How many `name` gives.
        units: Channels that go together, by number: one each, one of every group of a grouped convolution, or a head.
        heads: The attention heads that the units are, in order; None when they are none.
        normalized: A LayerNorm, or the like, takes its statistics over them: what is left changes without one.
    """

    name: str
    layers: tuple[str, ...]
    channels: int
    units: tuple[tuple[int, ...], ...]
    heads: Heads | None = None
    normalized: str | None = None


def adapted(module: nn.Module, inputs: Inputs) -> Adapter:
    """Return the module as one that takes the tensors of `inputs` in order."""
    return Adapter(module, inputs.names if inputs.by_keyword else None)


def run(module: nn.Module, inputs: Inputs) -> tuple[torch.Tensor, ...]:
    """Return the module's output tensors."""
    adapter = adapted(module, inputs)
    outputs: tuple[torch.Tensor, ...] = adapter(*(tensor.to(adapter.device) for tensor in inputs.tensors))
    return outputs


def clone(module: nn.Module) -> nn.Module:
    """Return a deep copy.

    Raises:
        ExportError: The module cannot be copied.
    """
    try:
        return copy.deepcopy(module)
    except Exception as err:
        raise ExportError(f"{type(module).__name__} cannot be copied: {reason(err)}. Remove what does not copy, such "
                          "as weight_norm, hooks or open files") from err


def trace(module: nn.Module, inputs: Inputs) -> Any:
    """Return the torch_pruning.DependencyGraph of a module, which is put into evaluation mode with gradients on.

    Raises:
        ExportError: It cannot be traced, with the reason.
        MissingDependencyError: torch-pruning is not installed.
    """
    pruning = require("torch_pruning", extra="compress", feature="Pruning channels")
    module.requires_grad_(True)
    try:
        with torch.enable_grad():
            return pruning.DependencyGraph().build_dependency(
                module, inputs.tensors, forward_fn=lambda traced, _: _differentiable(traced, inputs),
                ignored_params=head_tables(module), verbose=False)
    except TrtkitError:
        raise
    except Exception as err:
        raise ExportError(f"{type(module).__name__} cannot be traced for pruning: {reason(err)}. Prune it without "
                          "what the trace does not follow, or use --method unstructured") from err


def _differentiable(module: nn.Module, inputs: Inputs) -> list[torch.Tensor]:
    outputs = [tensor for tensor in run(module, inputs) if tensor.grad_fn is not None]
    if not outputs:
        raise ExportError(f"{type(module).__name__} gives no output with a gradient, so nothing can be traced for "
                          "pruning. Take no_grad, detach, argmax and numpy out of its forward, or prune the part "
                          "that has gradients")
    return outputs


def group_of(graph: Any, name: str, channels: Sequence[int]) -> Any:
    """Return torch-pruning's group of everything that goes with output `channels` of the layer called `name`."""
    layer = graph.model.get_submodule(name)
    return graph.get_pruning_group(layer, graph.get_pruner_of_module(layer).prune_out_channels, list(channels))


def coupled_channels(module: nn.Module, inputs: Inputs) -> tuple[list[Coupled], dict[str, str]]:
    """Return all sets of coupled channels of a module, and the layers that can have no part in one, with the reason.

    Args:
        module: Traced as it is; give a copy.
        inputs: Of one forward.

    Raises:
        ExportError: It cannot be traced.
    """
    graph = trace(module, inputs)
    names = {layer: name for name, layer in module.named_modules()}
    found: list[Coupled] = []
    for group in graph.get_all_groups(root_module_types=(*CONVOLUTIONS, nn.Linear)):
        found.append(_coupled(graph, group, names))
    reached = {layer for coupled in found for layer in coupled.layers}
    left_out = {name: "the trace does not reach it" for layer, name in names.items()
                if isinstance(layer, (*CONVOLUTIONS, nn.Linear)) and name not in reached}
    return found, left_out


def _coupled(graph: Any, group: Any, names: Mapping[nn.Module, str]) -> Coupled:
    root = group[0].dep.target.module
    name, channels = names[root], graph.get_out_channels(root)
    layers, kinds, groups = [name], [], 1
    for dep, _ in group:
        layer = dep.target.module
        if layer not in names:
            continue
        if graph.is_out_channel_pruning_fn(dep.handler) and isinstance(layer, (*CONVOLUTIONS, nn.Linear)):
            layers.append(names[layer])
        if isinstance(layer, CONVOLUTIONS) and layer.groups != layer.out_channels:
            groups = math.lcm(groups, layer.groups)
        elif isinstance(layer, nn.GroupNorm):
            groups = math.lcm(groups, layer.num_groups)
        if not isinstance(layer, nn.modules.batchnorm._BatchNorm) and "Norm" in type(layer).__name__:
            kinds.append(type(layer).__name__)
    same = [dep_idxs for dep, dep_idxs in group_of(graph, name, [0])
            if dep.target.module is root and graph.is_out_channel_pruning_fn(dep.handler)]
    orbit = sorted({index for indices in same for index in indices}) or [0]
    layers = list(dict.fromkeys(layers))
    stride = channels // len(orbit)
    heads = heads_of(graph.model, layers, stride) if isinstance(root, nn.Linear) else None
    return Coupled(name, tuple(layers), channels, _units(orbit, stride, groups, heads), heads,
                   kinds[0] if kinds else None)


def _units(orbit: Sequence[int], stride: int, groups: int, heads: Heads | None) -> tuple[tuple[int, ...], ...]:
    """Return the channels that go together.

    Args:
        orbit: Channels of the same layer that go with channel 0, as the two halves of a gated unit do.
        stride: Channels between them.
        groups: Of grouped convolutions: every group gives one channel.
        heads: Of attention.
    """
    if heads is not None:
        starts = [list(range(head * heads.size, (head + 1) * heads.size)) for head in range(heads.count)]
    else:
        each = max(1, stride // groups)
        starts = [list(range(first, stride, each)) for first in range(each)]
    return tuple(tuple(sorted(start + offset for start in unit for offset in orbit)) for unit in starts)


def without(module: nn.Module, inputs: Inputs, coupled: Mapping[str, Coupled],
            gone: Mapping[str, Sequence[int]]) -> nn.Module:
    """Return a copy of a module without some of its coupled channels.

    Args:
        module: Unchanged.
        inputs: Of one forward.
        coupled: By name, as coupled_channels gives them for this very module.
        gone: Numbers of the units that go, by the name of their set.

    Raises:
        ExportError: It cannot be copied or traced.
    """
    copied = clone(module)
    training = {name: each.training for name, each in module.named_modules()}
    trained = {name: parameter.requires_grad for name, parameter in module.named_parameters(remove_duplicate=False)}
    graph = trace(copied, inputs)
    for name, units in gone.items():
        channels = [channel for unit in units for channel in coupled[name].units[unit]]
        if channels:
            group_of(graph, name, channels).prune(record_history=False)
            heads = coupled[name].heads
            if heads is not None:
                heads.drop(copied, units)
    _tie_again(module, copied)
    for name, each in copied.named_modules():
        each.training = training[name]
    for name, parameter in copied.named_parameters():
        parameter.requires_grad_(trained[name])
        parameter.grad = None
    return copied


def _tie_again(module: nn.Module, pruned: nn.Module) -> None:
    """Share the weights that the module shares: pruning gave each of its readers a weight of its own."""
    shared: dict[int, list[str]] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        shared.setdefault(id(parameter), []).append(name)
    now = dict(pruned.named_parameters(remove_duplicate=False))
    for first, *others in shared.values():
        for name in others:
            if not torch.equal(now[name], now[first]):
                raise ExportError(f"'{name}' shares its weight with '{first}', and they would lose different channels. "
                                  "Spare them")
            place, _, leaf = name.rpartition(".")
            setattr(pruned.get_submodule(place), leaf, now[first])
