"""A training between two steps -> a checkpoint, and back."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, astuple, dataclass, field
from typing import Any

import torch
from torch import nn

from trtkit.compress.training.checkpoint import Checkpoint, digest
from trtkit.compress.training.log import Row
from trtkit.compress.training.random_state import RandomState
from trtkit.compress.training.spec import TrainSpec

__all__ = ["TrainState", "identity_of"]

_NOT_TOLD = ("device", "checkpoint_seconds")
"""Settings that may change between a run and the one that goes on."""


@dataclass
class TrainState:
    """All that the next step depends on.

    Attributes:
        module, optimizer, scaler: Of the training, changed in place.
        rows: A row a step.
        epoch, batch: Epochs that are done, and batches of the one after them.
        epoch_random: Random numbers where that epoch began.
        now_random: Random numbers to go on with; None when they need no restoring.
    """

    module: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    rows: list[Row] = field(default_factory=list)
    epoch: int = 0
    batch: int = 0
    epoch_random: RandomState | None = None
    now_random: RandomState | None = None

    def checkpoint(self, identity: Mapping[str, str], now: RandomState) -> Checkpoint:
        """Return this state as tensors and JSON; the tensors are still those of the module."""
        tensors = {f"module.{name}": value for name, value in self.module.state_dict().items()
                   if isinstance(value, torch.Tensor)}
        plain: dict[str, Any] = {}
        for number, state in self.optimizer.state_dict()["state"].items():
            for name, value in state.items():
                (tensors if isinstance(value, torch.Tensor) else plain)[f"optimizer.{number}.{name}"] = value
        tensors["history"] = torch.tensor([[math.nan if value is None else value for value in astuple(row)]
                                           for row in self.rows], dtype=torch.float64)
        begun = self.epoch_random and asdict(self.epoch_random)
        return Checkpoint(tensors, {
            "identity": dict(identity), "step": len(self.rows), "epoch": self.epoch, "batch": self.batch,
            "optimizer": plain, "scaler": self.scaler.state_dict(), "epoch_random": begun, "now_random": asdict(now)})

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go back to the state of a checkpoint."""
        facts = checkpoint.facts
        self.module.load_state_dict(checkpoint.below("module."), strict=False)
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": _optimizer_state(checkpoint)})
        if self.scaler.is_enabled() and facts["scaler"]:
            self.scaler.load_state_dict(facts["scaler"])
        self.rows = [Row(int(epoch), int(step), loss, rate, None if math.isnan(score) else score)
                     for epoch, step, loss, rate, score in checkpoint.tensors["history"].tolist()]
        self.epoch, self.batch = facts["epoch"], facts["batch"]
        self.now_random = RandomState(**facts["now_random"])
        self.epoch_random = RandomState(**facts["epoch_random"])


def identity_of(module: nn.Module, spec: TrainSpec, batches: int, more: str) -> dict[str, str]:
    """Return what the result of a training depends on, name -> value: a checkpoint of another one is refused.

    Args:
        module: As it is before the first step.
        spec: How it is trained.
        batches: Of an epoch.
        more: What the caller knows of besides.
    """
    settings = {name: str(getattr(value, "value", value)) for name, value in asdict(spec).items()
                if name not in _NOT_TOLD}
    frozen = {name: weight for name, weight in module.named_parameters() if not weight.requires_grad}
    layers = hashlib.sha256(re.sub(r"0x[0-9a-f]+", "", repr(module)).encode()).hexdigest()  # without addresses
    return settings | {"batches of an epoch": str(batches), "model": f"{type(module).__name__} {layers[:16]}",
                       "weights at the start": digest(module.state_dict())[:16],
                       "frozen parameters": digest(frozen)[:16] if frozen else "none", "identity": more or "none"}


def _optimizer_state(checkpoint: Checkpoint) -> dict[int, dict[str, Any]]:
    prefix = "optimizer."
    plain = {name[len(prefix):]: value for name, value in checkpoint.facts["optimizer"].items()}
    state: dict[int, dict[str, Any]] = {}
    for name, value in {**checkpoint.below(prefix), **plain}.items():
        number, _, key = name.partition(".")
        state.setdefault(int(number), {})[key] = value
    return state
