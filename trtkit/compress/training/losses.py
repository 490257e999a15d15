"""The name of a loss -> the step of a training: forward, and outputs against targets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from trtkit.compress.training.batches import call, shapes
from trtkit.compress.training.spec import LossStep
from trtkit.errors import SpecError, TrainingError
from trtkit.export.outputs import named_tensors

__all__ = ["LOSSES", "step_for"]


def _cross_entropy(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return functional.cross_entropy(outputs.float(), targets)


def _bce(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    _same_shape("bce", outputs, targets)
    each = functional.binary_cross_entropy_with_logits(outputs.float(), targets.float(), reduction="none")
    return each.flatten(1).sum(1).mean()


def _mse(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    _same_shape("mse", outputs, targets)
    return functional.mse_loss(outputs.float(), targets.float())


LOSSES: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "cross_entropy": _cross_entropy, "bce": _bce, "mse": _mse,
}
"""Name -> (outputs, targets) -> loss, float32, of one element.

cross_entropy: logits (N, C, ...) against class indices (N, ...), int64, or probabilities like the logits; the mean.
bce: logits of several labels against 0 and 1 (or soft tags) of the same shape; summed over labels, mean over the batch.
mse: the mean of squared differences of two tensors of the same shape.
"""


def step_for(name: str) -> LossStep:
    """Return the step that puts a batch (inputs, targets) through the module and compares by the loss called `name`.

    Of several outputs the one called "logits" is compared.

    Raises:
        SpecError: There is no such loss.
    """
    if name not in LOSSES:
        raise SpecError(f"Loss '{name}' is unknown. Choose one of: {', '.join(LOSSES)}; or give a step of your own")
    loss = LOSSES[name]

    def step(module: nn.Module, batch: Any) -> torch.Tensor:
        if not isinstance(batch, (tuple, list)) or len(batch) != 2:
            raise TrainingError(f"The loader gives {shapes(batch)} for a batch, not (inputs, targets). "
                                "Give pairs, or a step of your own that reads this batch")
        inputs, targets = batch
        return loss(_logits(call(module, inputs)), targets)

    return step


def _logits(output: Any) -> torch.Tensor:
    if isinstance(output, torch.Tensor):
        return output
    tensors = dict(named_tensors(output))
    if "logits" not in tensors and len(tensors) > 1:
        raise TrainingError(f"The module returns {', '.join(tensors)}, and none is called logits. "
                            "Give a step of your own that says which one the targets are for")
    return tensors["logits"] if "logits" in tensors else next(iter(tensors.values()))


def _same_shape(name: str, outputs: torch.Tensor, targets: torch.Tensor) -> None:
    if outputs.shape != targets.shape:
        raise TrainingError(f"The loss {name} compares outputs {shapes(outputs)} with targets {shapes(targets)}; they "
                            "must have the same shape. Change what the loader gives, or the module's last layer")
