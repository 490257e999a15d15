"""How a module is trained -> its optimizer, and the learning rate of each step."""

from __future__ import annotations

import math

import torch
from torch import nn

from trtkit.compress.training.spec import Optimizer, Schedule, TrainSpec
from trtkit.errors import TrainingError

__all__ = ["learning_rate", "optimizer_for"]

_RISE = 0.3
_START = 1 / 25
_END = _START / 1e4
"""Share of steps on which ONECYCLE rises, and its first and last rate as shares of the largest; torch's defaults."""


def optimizer_for(module: nn.Module, spec: TrainSpec) -> torch.optim.Optimizer:
    """Return the optimizer of the parameters that want gradients; frozen ones are left out.

    Raises:
        TrainingError: All are frozen, or there are none.
    """
    trained = [weight for weight in module.parameters() if weight.requires_grad]
    if not trained:
        raise TrainingError(f"{type(module).__name__} has no parameter that wants a gradient, so there is nothing to "
                            "train. Set requires_grad_(True) on the layers to train")
    groups = [{"params": [weight for weight in trained if weight.ndim >= 2], "weight_decay": spec.weight_decay},
              {"params": [weight for weight in trained if weight.ndim < 2], "weight_decay": 0.0}]
    groups = [group for group in groups if group["params"]]
    if spec.optimizer is Optimizer.SGD:
        return torch.optim.SGD(groups, lr=spec.learning_rate, momentum=0.9, nesterov=True)
    return torch.optim.AdamW(groups, lr=spec.learning_rate)


def learning_rate(spec: TrainSpec, step: int, steps: int) -> float:
    """Return the learning rate of a step.

    Args:
        spec: Its schedule and largest rate.
        step: Steps taken before this one; from `steps` on the rate stays at the schedule's end.
        steps: Of the whole training.

    Source: COSINE is torch's CosineAnnealingLR (Loshchilov and Hutter, 2017); ONECYCLE the rate of torch's OneCycleLR
    (Smith and Topin, 2018), momentum left as it is.
    """
    if spec.schedule is Schedule.CONSTANT:
        return spec.learning_rate
    if spec.schedule is Schedule.COSINE:
        return spec.learning_rate * _cosine(1.0, 0.0, step / steps)
    top, last = _RISE * steps - 1, steps - 1
    if step <= top:
        return spec.learning_rate * _cosine(_START, 1.0, step / top)
    return spec.learning_rate * _cosine(1.0, _END, (step - top) / (last - top))


def _cosine(first: float, last: float, share: float) -> float:
    return last + (first - last) / 2 * (1 + math.cos(math.pi * min(share, 1.0)))
