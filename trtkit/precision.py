"""Number formats, how to quantize, and which nodes to leave alone."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from trtkit.errors import SpecError

__all__ = ["Estimator", "NodeSelector", "Precision", "QuantSpec"]


class Precision(str, Enum):
    """Number format of a lowered model."""

    FP32 = "fp32"
    FP16 = "fp16"
    INT8 = "int8"

    @classmethod
    def parse(cls, text: str) -> Precision:
        """Return the precision called `text`, upper or lower case.

        Raises:
            SpecError: There is no such precision.
        """
        try:
            return cls(text.lower())
        except ValueError as err:
            names = ", ".join(p.value for p in cls)
            raise SpecError(f"Precision '{text}' is unknown. Choose one of: {names}") from err


class Estimator(str, Enum):
    """How a range is chosen from a histogram of observed values."""

    MINMAX = "minmax"
    PERCENTILE = "percentile"
    ENTROPY = "entropy"
    MSE = "mse"


@dataclass(frozen=True)
class NodeSelector:
    """Nodes chosen by shell-style patterns on their names or operator types.

    Attributes:
        names: Patterns such as "/head/*"; a node is chosen when one matches its name.
        op_types: Patterns such as "Gemm"; a node is chosen when one matches its operator.
    """

    names: tuple[str, ...] = ()
    op_types: tuple[str, ...] = ()

    def select(self, nodes: Iterable[tuple[str, str]]) -> set[str]:
        """Return the names of the chosen nodes.

        Args:
            nodes: (name, op_type) of every node.

        Raises:
            SpecError: A pattern matches nothing, so it is stale or misspelt.
        """
        nodes = list(nodes)
        chosen: set[str] = set()
        for patterns, position, kind in ((self.names, 0, "name"), (self.op_types, 1, "operator")):
            for pattern in patterns:
                hits = {node[0] for node in nodes if fnmatch.fnmatchcase(node[position], pattern)}
                if not hits:
                    some = ", ".join(sorted({node[position] for node in nodes})[:8])
                    raise SpecError(f"Selector '{pattern}' matches no node's {kind}. There are, among others: {some}")
                chosen |= hits
        return chosen


@dataclass(frozen=True)
class QuantSpec:
    """How to turn an FP32 model into INT8.

    Attributes:
        estimator: Range estimator for activations.
        percentile: Share of values inside the range, in percent, for Estimator.PERCENTILE.
        bias_correction: Take the mean output error of quantized weights out of the biases.
        keep: Nodes that stay in floating point.
    """

    estimator: Estimator = Estimator.MSE
    percentile: float = 99.99
    bias_correction: bool = True
    keep: NodeSelector = NodeSelector()

    def __post_init__(self) -> None:
        if not 50.0 < self.percentile <= 100.0:
            raise SpecError(f"percentile is {self.percentile}; it must lie above 50 and at most at 100")
