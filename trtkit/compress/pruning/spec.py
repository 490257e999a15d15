"""What to take out of a module, how much of it, and in how many steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, TypeAlias

from trtkit.errors import SpecError
from trtkit.precision import NodeSelector

__all__ = ["Goal", "Importance", "Latency", "Method", "PruneSpec", "Ramp", "Scope"]

Latency: TypeAlias = Callable[[Any], float]
"""Module -> its latency on the target, in seconds."""


class Method(str, Enum):
    """What is taken out."""

    CHANNELS = "channels"
    """Whole channels and attention heads: the module stays dense, gets smaller, and runs faster everywhere."""
    UNSTRUCTURED = "unstructured"
    """Single weights become zero: a smaller file once compressed, but no speed in dense kernels."""
    TWO_FOUR = "two-four"
    """Two of four neighbouring weights become zero: speed on NVIDIA GPUs since Ampere, by SPARSE_WEIGHTS, only."""


class Goal(str, Enum):
    """What an amount of channels is measured in."""

    MACS = "macs"
    PARAMS = "params"
    LATENCY = "latency"


class Importance(str, Enum):
    """What tells a channel that can go from one that cannot."""

    L1 = "l1"
    """Sum of the absolute weights of everything that is coupled to the channel."""
    L2 = "l2"
    """The same with squares."""
    TAYLOR = "taylor"
    """First-order change of the loss when the channel is gone (Molchanov et al. 2019): needs data and a loss."""
    BATCHNORM = "batchnorm"
    """Absolute scale of the BatchNorm behind the channel (Liu et al. 2017, "network slimming")."""


class Scope(str, Enum):
    """What competes with what."""

    LOCAL = "local"
    """Every layer gives the same share."""
    GLOBAL = "global"
    """Layers give what matters least in the whole module."""


class Ramp(str, Enum):
    """How the amount grows from step to step."""

    LINEAR = "linear"
    CUBIC = "cubic"
    """Much at first, little at the end: amount * (1 - (1 - t)**3) (Zhu & Gupta 2017, "To prune, or not to prune")."""

    def amounts(self, amount: float, steps: int) -> tuple[float, ...]:
        """Return the amount that is gone after each of `steps` steps; the last one is `amount`."""
        done = [(step + 1) / steps for step in range(steps)]
        return tuple(amount * (t if self is Ramp.LINEAR else 1.0 - (1.0 - t) ** 3) for t in done)


@dataclass(frozen=True)
class PruneSpec:
    """How a module is pruned.

    Attributes:
        amount: Share to take away, above 0 and below 1: of the MACs, parameters or latency for Method.CHANNELS, of the
            weights for Method.UNSTRUCTURED. Method.TWO_FOUR takes half of each layer, whatever it says.
        method: What is taken out.
        goal: What `amount` is a share of, for Method.CHANNELS.
        importance: Of channels.
        scope: Whether layers compete.
        round_to: Channels that are left are a multiple of this; the target's channel multiple gives the most speed.
        max_layer_amount: Largest share of a layer's channels to take, so that no layer runs dry.
        spare: Layers that keep their output channels, by name ("head.*") or class ("Linear").
        steps: Prune and fine-tune so many times; 1 is one-shot.
        ramp: How the amount grows over the steps.
        tolerance: How far below `amount` the goal may end before it counts as missed, as a share of the whole.
        batches: Batches of the loader that Importance.TAYLOR reads.
        max_drop: Largest loss of the score after fine-tuning, in the score's own units; what loses more is given up
            for the last good step. None accepts any loss that leaves more than half of the score.
    """

    amount: float = 0.5
    method: Method = Method.CHANNELS
    goal: Goal = Goal.MACS
    importance: Importance = Importance.L2
    scope: Scope = Scope.GLOBAL
    round_to: int = 1
    max_layer_amount: float = 0.9
    spare: NodeSelector = field(default_factory=NodeSelector)
    steps: int = 1
    ramp: Ramp = Ramp.CUBIC
    tolerance: float = 0.02
    batches: int = 8
    max_drop: float | None = None

    def __post_init__(self) -> None:
        for name in ("amount", "max_layer_amount"):
            value = getattr(self, name)
            if not 0.0 < value < 1.0:
                raise SpecError(f"{name} is {value}; it is a share, above 0 and below 1. Give 0.5 for half")
        for name in ("round_to", "steps", "batches"):
            if getattr(self, name) < 1:
                raise SpecError(f"{name} is {getattr(self, name)}. Give at least 1")
        if not 0.0 <= self.tolerance < 1.0:
            raise SpecError(f"tolerance is {self.tolerance}; it is a share, from 0 to below 1. "
                            "Give 0.02 for 2 %")
        if self.method is Method.TWO_FOUR and self.steps > 1:
            raise SpecError(f"steps is {self.steps}, and two of four weights go in one step. Give steps 1")
        if self.max_drop is not None and self.max_drop < 0:
            raise SpecError(f"max_drop is {self.max_drop}; it must not be negative. "
                            "Give 0.01 for one point of a score from 0 to 1")

    @property
    def asked(self) -> float:
        """What is to be gone in the end, as a share of the whole."""
        return 0.5 if self.method is Method.TWO_FOUR else self.amount

    @property
    def amounts(self) -> tuple[float, ...]:
        """What is to be gone after each step, as shares of the whole."""
        return self.ramp.amounts(self.amount, self.steps)
