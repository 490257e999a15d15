"""What an operator of ONNX is here: a node's attributes -> a kernel, a function of torch tensors."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn, TypeAlias

import onnx
import torch

from trtkit.errors import GraphError

__all__ = ["Kernel", "Node", "Operator", "apply", "variadic"]

Kernel: TypeAlias = Callable[..., Any]
"""(one tensor an input, None for one that is left out) -> a tensor, or a tuple of them for several outputs."""


@dataclass(frozen=True)
class Node:
    """One node of a graph, without its tensors.

    Attributes:
        name: For messages.
        op_type: Such as "Conv".
        domain: "" for ONNX's own operators.
        opset: Version of ONNX's operators that the model uses.
        attributes: Values by name: numbers, texts, lists, arrays as onnx.TensorProto.
        inputs: Names of tensors; "" for one that is left out.
        outputs: Names of tensors; "" for one, behind the first, that nobody reads.
    """

    name: str
    op_type: str
    domain: str
    opset: int
    attributes: Mapping[str, Any]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    @classmethod
    def of(cls, proto: onnx.NodeProto, opset: int, read: Container[str]) -> Node:
        """Return a node as ONNX stores it; `read` are the tensors that any node or the graph's end reads."""
        values = {item.name: onnx.helper.get_attribute_value(item) for item in proto.attribute}
        texts = {name: value.decode() for name, value in values.items() if isinstance(value, bytes)}
        return cls(proto.name or proto.output[0], proto.op_type, proto.domain, opset, {**values, **texts},
                   tuple(proto.input), (proto.output[0], *(name if name in read else "" for name in proto.output[1:])))

    def get(self, name: str, default: Any = None) -> Any:
        """Return an attribute, or the default when the node does not carry it."""
        return self.attributes.get(name, default)

    def refuse(self, reason: str) -> NoReturn:
        """Raise the error for what torch cannot compute here.

        Raises:
            GraphError: Always.
        """
        raise GraphError(f"Node '{self.name}' ({self.op_type}, opset {self.opset}): {reason}. Export the model without "
                         "it, or train the part before this node: trtkit rewrite MODEL --pass 'extract:INPUT->TENSOR'")

    def one_output(self) -> None:
        """Refuse a node of which an output besides the first is read.

        Raises:
            GraphError: See there.
        """
        if any(self.outputs[1:]):
            self.refuse(f"its further outputs {list(self.outputs[1:])} have no form in torch")


@dataclass(frozen=True)
class Operator:
    """An operator in torch.

    Attributes:
        make: Reads the attributes once and returns what computes the node; it raises GraphError for attributes that
            torch has no form for.
        host: Positions of inputs that are read as Python numbers, such as the shape of Reshape; they stay on the CPU.
        trained: Positions at which a constant is a weight.
        affine: Whether a constant vector at any position is a weight: scale or shift of each channel.
    """

    make: Callable[[Node], Kernel]
    host: tuple[int, ...] = ()
    trained: tuple[int, ...] = ()
    affine: bool = False


def apply(function: Kernel) -> Operator:
    """Return the operator without attributes that a torch function computes."""
    return Operator(lambda node: function)


def variadic(function: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> Operator:
    """Return the operator that joins one or more inputs pairwise."""

    def run(first: torch.Tensor, *others: torch.Tensor) -> torch.Tensor:
        for other in others:
            first = function(first, other)
        return first

    return apply(run)
