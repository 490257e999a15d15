"""Number formats, how to quantize, and which nodes to leave alone."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from trtkit.errors import SpecError

__all__ = ["Estimator", "NodeSelector", "Precision", "QuantSpec", "Rounding"]


class Precision(str, Enum):
    """Number formats of a lowered model.

    INT8: quantized layers in INT8 by static scales, the rest in FP32. INT8_FP16: the rest in FP16. INT8_DYNAMIC: MatMul
    weights in INT8 and their inputs by scales found at run time, the rest in FP32. INT4: weights alone, a scale a
    block. FP8: E4M3 by static scales. INT4 and FP8 leave the rest in FP16 on TensorRT, INT4 in FP32 on a CPU.
    """

    FP32 = "fp32"
    FP16 = "fp16"
    BF16 = "bf16"
    INT8 = "int8"
    INT8_FP16 = "int8+fp16"
    INT8_DYNAMIC = "int8-dynamic"
    INT4 = "int4"
    FP8 = "fp8"

    @property
    def calibrated(self) -> bool:
        """Whether it needs the ranges of activations."""
        return self in (Precision.INT8, Precision.INT8_FP16, Precision.FP8)

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
    """How a range is chosen from a histogram of observed values; AUTO: for each tensor by measured error."""

    MINMAX = "minmax"
    PERCENTILE = "percentile"
    ENTROPY = "entropy"
    MSE = "mse"
    AUTO = "auto"


@dataclass(frozen=True)
class NodeSelector:
    """Nodes chosen by shell-style patterns on their names or operator types.

    Attributes:
        names: Patterns such as "/head/*"; a node is chosen when one matches its name. A pattern that is a node's name
            to the letter chooses that node alone, whatever stars and brackets it holds.
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
            literal = {node[position] for node in nodes} if position == 0 else set()
            for pattern in patterns:
                hits = {pattern} if pattern in literal else {node[0] for node in nodes
                                                             if fnmatch.fnmatchcase(node[position], pattern)}
                if not hits:
                    some = ", ".join(sorted({node[position] for node in nodes})[:8])
                    raise SpecError(f"Selector '{pattern}' matches no node's {kind}. There are, among others: {some}")
                chosen |= hits
        return chosen


class Rounding(str, Enum):
    """How a weight goes to its integer grid.

    NEAREST: round half to even. ADAPTIVE, for INT4: the scales and zero points of the blocks are chosen for the least
    error. INT8 weights always go to the nearest value.
    """

    NEAREST = "nearest"
    ADAPTIVE = "adaptive"


@dataclass(frozen=True)
class QuantSpec:
    """How to quantize a model.

    Attributes:
        estimator: Range estimator for activations.
        percentile: Share of values inside the range, in percent, for Estimator.PERCENTILE.
        bias_correction: Take the mean output error of quantized weights out of the biases.
        equalize: Even out the channel ranges of consecutive convolutions before quantizing (cross-layer equalization).
        smoothing: Share of a MatMul's activation outliers that moves into its weights, 0 to 1 (SmoothQuant's alpha);
            0 moves none.
        rounding: INT4: how weights go to their grid.
        block: INT4: weights that share a scale; 16, 32, 64 or 128.
        per_channel: INT8 by static scales: weights have a scale an output channel; else one a tensor, as some
            accelerators want it.
        ends: Quantize the first and the last weighted layer as well.
        keep: Nodes that stay in floating point.
    """

    estimator: Estimator = Estimator.MSE
    percentile: float = 99.99
    bias_correction: bool = True
    equalize: bool = False
    smoothing: float = 0.0
    rounding: Rounding = Rounding.ADAPTIVE
    block: int = 32
    per_channel: bool = True
    ends: bool = True
    keep: NodeSelector = NodeSelector()

    def __post_init__(self) -> None:
        if not 50.0 < self.percentile <= 100.0:
            raise SpecError(f"percentile is {self.percentile}; it must lie above 50 and at most at 100")
        if not 0.0 <= self.smoothing <= 1.0:
            raise SpecError(f"smoothing is {self.smoothing}; it is a share, from 0 to 1")
        if self.block not in (16, 32, 64, 128):
            raise SpecError(f"block is {self.block}. Choose 16, 32, 64 or 128")
