"""Kernels that slide: strides, dilations and padding as ONNX states them -> as torch takes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from trtkit.compress.qat.operators.registry import Node

__all__ = ["Window", "split_pads", "torch_pads"]


@dataclass(frozen=True)
class Window:
    """How a kernel moves over its input; empty lists stand for the defaults of ONNX.

    Attributes:
        strides, dilations: One a spatial axis.
        pads: All begins, then all ends.
        auto_pad: NOTSET, VALID, SAME_UPPER or SAME_LOWER.
    """

    strides: list[int]
    dilations: list[int]
    pads: list[int]
    auto_pad: str

    @classmethod
    def of(cls, node: Node) -> Window:
        """Return the window of a convolution or a pooling."""
        return cls(list(node.get("strides", ())), list(node.get("dilations", ())), list(node.get("pads", ())),
                   node.get("auto_pad", "NOTSET"))

    def ends(self, sizes: Sequence[int], kernel: Sequence[int]) -> tuple[list[int], list[int]]:
        """Return the padding before and behind each spatial axis of an input of these sizes."""
        rank = len(kernel)
        if not self.auto_pad.startswith("SAME"):
            return split_pads(self.pads, rank)
        strides, dilations = self.strides or [1] * rank, self.dilations or [1] * rank
        totals = [max(0, (-(-size // stride) - 1) * stride + (length - 1) * dilation + 1 - size)
                  for size, length, stride, dilation in zip(sizes, kernel, strides, dilations)]
        small, large = [total // 2 for total in totals], [total - total // 2 for total in totals]
        return (small, large) if self.auto_pad == "SAME_UPPER" else (large, small)


def split_pads(pads: Sequence[int], rank: int) -> tuple[list[int], list[int]]:
    """Return begins and ends of ONNX's pads; zeros when there are none."""
    return (list(pads[:rank]), list(pads[rank:])) if pads else ([0] * rank, [0] * rank)


def torch_pads(begins: Sequence[int], ends: Sequence[int]) -> list[int]:
    """Return padding as torch.nn.functional.pad takes it: last axis first."""
    return [pad for pair in zip(reversed(begins), reversed(ends)) for pad in pair]
