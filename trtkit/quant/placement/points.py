"""What to quantize in one graph, before any number is known."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

__all__ = ["Points", "Weight"]


@dataclass(frozen=True)
class Weight:
    """A constant operand of a weighted node.

    Attributes:
        node: The node that reads it.
        position: Its input number.
        axis: Channel axis of the scales; None for one scale.
    """

    node: Any
    position: int
    axis: int | None


@dataclass
class Points:
    """What to quantize, before any number is known.

    Attributes:
        activations: Tensor -> the (node, input) pairs that read its quantized form; None: every reader does.
        weights: One entry a quantized constant operand.
        numbers: (node, input) of the constants of one element that an integer Add or Mul takes; they are exact.
        same_scale: Tensor -> the tensor whose scale it must share.
        joined: Tensor -> a neighbour whose scale it should take where the two are alike.
        gates: Tensor -> the Sigmoid or HardSigmoid that makes it; its grid is that of 0 to 1.
        absorbed: Relu and Clip nodes (by output name) whose producer is a quantized node, droppable when the
            saturation of the output's Q does the same.
    """

    activations: dict[str, list[tuple[Any, int]] | None] = field(default_factory=dict)
    weights: list[Weight] = field(default_factory=list)
    numbers: list[tuple[Any, int]] = field(default_factory=list)
    same_scale: dict[str, str] = field(default_factory=dict)
    joined: dict[str, str] = field(default_factory=dict)
    gates: dict[str, Any] = field(default_factory=dict)
    absorbed: dict[str, Any] = field(default_factory=dict)

    def is_integer(self, tensor: str) -> bool:
        """Whether every reader of a tensor reads its quantized form."""
        return self.activations.get(tensor, ()) is None

    def read(self, tensor: str, node: Any, position: int) -> None:
        """Let one input of a node read the quantized form of a tensor."""
        readers = self.activations.setdefault(tensor, [])
        if readers is not None and (node, position) not in readers:
            readers.append((node, position))
