"""How a module is trained, and what trains it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeAlias

from trtkit.errors import SpecError

__all__ = ["Evaluate", "Loader", "LossStep", "Optimizer", "Schedule", "TrainSpec"]

Loader: TypeAlias = Iterable[Any]
"""Batches of one epoch each time it is iterated, such as a torch DataLoader. Where it has `set_epoch(number)` (as
torch's DistributedSampler), that is called before each epoch. A batch is (inputs, targets) unless a LossStep of one's
own reads it otherwise; inputs is a tensor, or a tuple of them in the order of forward."""

LossStep: TypeAlias = Callable[[Any, Any], Any]
"""(module in training mode, batch on the module's device) -> loss, a tensor of one element. Replaces ours."""

Evaluate: TypeAlias = Callable[[Any], float]
"""Module in evaluation mode -> score, higher is better, such as top-1 or mAP as a share from 0 to 1."""


class Optimizer(str, Enum):
    """What turns gradients into steps."""

    ADAMW = "adamw"
    SGD = "sgd"
    """With Nesterov momentum 0.9."""


class Schedule(str, Enum):
    """How the learning rate changes over all steps."""

    CONSTANT = "constant"
    COSINE = "cosine"
    """From the full rate to 0."""
    ONECYCLE = "onecycle"
    """Up to the full rate, then down to nearly 0 (torch's OneCycleLR): the fastest from random weights."""


@dataclass(frozen=True)
class TrainSpec:
    """How a module is trained.

    Attributes:
        epochs: Passes over the loader.
        learning_rate: Largest of the schedule.
        optimizer, schedule: See there.
        weight_decay: Of weights with two or more dimensions; biases and norms have none.
        clip_norm: Largest norm of all gradients together; None does not clip.
        amp: Train in mixed precision on CUDA (FP16 with loss scaling); the CPU trains in FP32.
        seed: Of torch's random numbers; the same seed gives the same curve on the same machine.
        device: "auto" (CUDA where there is one), or a torch device.
        checkpoint_seconds: Write a checkpoint when so many seconds have passed, and after every epoch; 0 after every
            step.
    """

    epochs: int = 1
    learning_rate: float = 1e-3
    optimizer: Optimizer = Optimizer.ADAMW
    schedule: Schedule = Schedule.COSINE
    weight_decay: float = 0.01
    clip_norm: float | None = None
    amp: bool = True
    seed: int = 0
    device: str = "auto"
    checkpoint_seconds: float = 60.0

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise SpecError(f"epochs is {self.epochs}. Give at least 1")
        if not self.learning_rate > 0:
            raise SpecError(f"learning_rate is {self.learning_rate}; it must be above 0. Give 1e-3, or less to "
                            "fine-tune")
        if self.weight_decay < 0 or (self.clip_norm is not None and not self.clip_norm > 0):
            raise SpecError(f"weight_decay is {self.weight_decay} and clip_norm {self.clip_norm}; the first must not "
                            "be negative, the second above 0. Use 0 for no decay and None for no clipping")
        if self.checkpoint_seconds < 0:
            raise SpecError(f"checkpoint_seconds is {self.checkpoint_seconds}; it must not be negative. Give 60, "
                            "or 0 for every step")
