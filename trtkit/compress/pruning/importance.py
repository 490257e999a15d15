"""Coupled channels -> how much the module needs each of their units."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Any

import torch
from torch import nn

from trtkit._optional import require
from trtkit.compress.pruning.channels import Coupled, clone, group_of, trace
from trtkit.compress.pruning.spec import Importance, PruneSpec, Scope
from trtkit.compress.training.batches import device_of, to_device
from trtkit.compress.training.spec import Loader, LossStep
from trtkit.errors import SpecError
from trtkit.export.inputs import Inputs

__all__ = ["unit_scores"]


def unit_scores(module: nn.Module, inputs: Inputs, sets: Sequence[Coupled], spec: PruneSpec, *,
                loader: Loader | None = None, step: LossStep | None = None) -> dict[str, torch.Tensor]:
    """Return the importance of each unit of each set, shape (units,), float32, on the CPU; what is larger stays longer.

    Scores by weights are relative to the mean of their set, so that layers of different scales compare; those by
    Taylor expansion are changes of the loss, and compare as they are. Sets that a criterion says nothing about are
    absent, such as those without BatchNorm for Importance.BATCHNORM.

    Args:
        module: Unchanged.
        inputs: Of one forward.
        sets: Coupled channels of the module.
        spec: Names the criterion.
        loader, step: Data and loss for Importance.TAYLOR.

    Raises:
        SpecError: Taylor importance without a loader or a step, an empty loader, or a loss without gradients.

    Source: torch_pruning.importance; Molchanov et al. 2019, "Importance Estimation for Neural Network Pruning": the
    square of gradient times weight, summed over batches.
    """
    copied = clone(module)
    graph = trace(copied, inputs)
    if spec.importance is Importance.TAYLOR:
        if loader is None or step is None:
            raise SpecError("Taylor importance needs gradients of a loss. Give a loader and a step (--train, --loss), "
                            "or choose importance l2")
        scores = _by_taylor(copied, graph, sets, spec, loader, step)
    else:
        scores = _by_weights(graph, sets, spec.importance)
    whole = spec.importance is Importance.TAYLOR  # changes of the loss add up; relative weights do not
    return {each.name: torch.stack([scores[each.name][list(unit)].sum() if whole else
                                    scores[each.name][list(unit)].mean() for unit in each.units])
            for each in sets if each.name in scores}


def _by_weights(graph: Any, sets: Sequence[Coupled], importance: Importance) -> dict[str, torch.Tensor]:
    kinds = require("torch_pruning", extra="compress", feature="Pruning channels").importance
    if importance is Importance.BATCHNORM:
        criterion = kinds.BNScaleImportance()
    else:
        criterion = kinds.GroupMagnitudeImportance(p=1 if importance is Importance.L1 else 2)
    found = {each.name: criterion(group_of(graph, each.name, range(each.channels))) for each in sets}
    return {name: torch.nan_to_num(scores.float().cpu()) for name, scores in found.items() if scores is not None}


def _by_taylor(module: nn.Module, graph: Any, sets: Sequence[Coupled], spec: PruneSpec, loader: Loader,
               step: LossStep) -> dict[str, torch.Tensor]:
    kinds = require("torch_pruning", extra="compress", feature="Pruning channels").importance
    criterion = kinds.GroupTaylorImportance(group_reduction="sum", normalizer=None, multivariable=True)
    groups = {each.name: group_of(graph, each.name, range(each.channels)) for each in sets}
    total = {each.name: torch.zeros(each.channels) for each in sets}
    device = device_of(module)
    batches = 0
    for batch in islice(iter(loader), spec.batches):
        batches += 1
        module.zero_grad(set_to_none=True)
        loss = step(module, to_device(batch, device))
        if not isinstance(loss, torch.Tensor) or loss.numel() != 1 or loss.grad_fn is None:
            raise SpecError("The step gives no loss of one element with a gradient, which Taylor importance needs. "
                            "Return the loss itself, not its item()")
        if not bool(torch.isfinite(loss)):
            raise SpecError(f"The loss is {float(loss)} at batch {batches}, so no importance can be told. "
                            "Check the weights and the data")
        loss.backward()
        for parameter in module.parameters():
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        for name, group in groups.items():
            scores = criterion(group)
            if scores is not None:
                total[name] += scores.float().cpu() ** 2
    if not batches:
        raise SpecError("The loader gives no batch. Taylor importance needs at least one")
    if spec.scope is Scope.LOCAL:
        return total
    peak = max((float(scores.max()) for scores in total.values()), default=0.0)
    return {name: scores / peak if peak else scores for name, scores in total.items()}
