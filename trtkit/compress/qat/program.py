"""Nodes of a graph -> a list of calls over numbered places, each value dropped when it was read for the last time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import nn

from trtkit.compress.qat.operators import OPERATORS, Kernel, Node
from trtkit.errors import GraphError, SpecError

__all__ = ["Edge", "Program"]

Edge: TypeAlias = "str | tuple[str, int]"
"""A tensor, as all its readers see it; or (first output of a node, input position), as this input sees it."""

_ONNX_SHAPES = ("Shape", "Size")
_NOTHING, _UNREAD = 0, 1
"""Places of an input that is left out, and of outputs that are."""


@dataclass(frozen=True)
class _Step:
    """One call.

    Attributes:
        label: Of the node, for messages.
        run: What is called.
        inputs, outputs: Places of values.
        moved: Inputs (by position) on the CPU that must follow the input at `anchor` to its device.
        anchor: See there.
        last: Places that nobody reads after this step.
    """

    label: str
    run: Kernel
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    moved: tuple[int, ...] = ()
    anchor: int = 0
    last: tuple[int, ...] = ()


class Program:
    """What a graph computes, in order.

    Args:
        nodes: In topological order.
        inputs, outputs: Names of the graph's.
        constants: Names of all initializers.
        host: Those that stay on the CPU.
        fake_quantizers: See TorchGraph.

    Raises:
        GraphError: A node has no form in torch.
        SpecError: A fake quantizer stands on an edge that is not there.
    """

    def __init__(self, nodes: Sequence[Node], inputs: Sequence[str], outputs: Sequence[str],
                 constants: Sequence[str], host: frozenset[str], fake_quantizers: Mapping[Edge, nn.Module]) -> None:
        _check_edges(nodes, {*inputs, *constants}, fake_quantizers)
        self.modules: list[nn.Module] = []
        self._quantizers = fake_quantizers
        self._places: dict[str | tuple[str, int], int] = {"": _NOTHING}
        self._count = 2
        self._inputs = tuple(self._place(name) for name in inputs)
        self._constants = tuple((self._place(name), name) for name in constants)
        self._steps: list[_Step] = []
        on_host = set(host)
        for node in nodes:
            self._add(node, on_host)
        self._results = tuple(self._read(name, self._quantizers.get(name)) for name in outputs)
        self._forget()

    def _place(self, key: str | tuple[str, int]) -> int:
        if key not in self._places:
            self._places[key] = self._count
            self._count += 1
        return self._places[key]

    def _read(self, name: str, quantizer: nn.Module | None) -> int:
        """Return the place of a tensor as a reader sees it; the first reader brings the call of its fake quantizer."""
        if quantizer is None:
            return self._place(name)
        if all(quantizer is not known for known in self.modules):
            self.modules.append(quantizer)
        key = (name, id(quantizer))
        if key not in self._places:
            source = self._place(name)
            self._steps.append(_Step(f"fake quantizer of '{name}'", quantizer, (source,), (self._place(key),)))
        return self._places[key]

    def _add(self, node: Node, on_host: set[str]) -> None:
        operator = OPERATORS.get(node.op_type)
        if operator is None or node.domain not in ("", "ai.onnx"):
            node.refuse(f"torch has no form for this operator (domain '{node.domain}')")
        kernel = operator.make(node)
        places = tuple(self._read(name, self._quantizers.get((node.outputs[0], position), self._quantizers.get(name)))
                       if name else _NOTHING for position, name in enumerate(node.inputs))
        computed = [position for position, name in enumerate(node.inputs) if name and position not in operator.host]
        there = [position for position in computed if node.inputs[position] not in on_host]
        moved = tuple(position for position in computed if position not in there) if there else ()
        if not there or node.op_type in _ONNX_SHAPES:
            on_host.update(node.outputs)
        outputs = tuple(self._place(name) if name else _UNREAD for name in node.outputs)
        self._steps.append(_Step(f"'{node.name}' ({node.op_type})", kernel, places, outputs, moved,
                                 there[0] if there else 0))

    def _forget(self) -> None:
        """Note at each step what is read or made there and never later."""
        later = {*self._results, _NOTHING}
        for index in reversed(range(len(self._steps))):
            step = self._steps[index]
            last = {*step.inputs, *step.outputs} - later
            later |= last
            self._steps[index] = _Step(step.label, step.run, step.inputs, step.outputs, step.moved, step.anchor,
                                       tuple(sorted(last)))

    def start(self, inputs: Iterable[torch.Tensor], constant: Callable[[str], torch.Tensor]) -> list[Any]:
        """Return the values before the first step, by place."""
        values: list[Any] = [None] * self._count
        for place, tensor in zip(self._inputs, inputs):
            values[place] = tensor
        for place, name in self._constants:
            values[place] = constant(name)
        return values

    def run(self, values: list[Any]) -> list[torch.Tensor]:
        """Return the graph's outputs in order; `values` is used up.

        Raises:
            GraphError: A node cannot compute with these values.
        """
        for step in self._steps:
            arguments = [values[place] for place in step.inputs]
            for position in step.moved:
                arguments[position] = arguments[position].to(arguments[step.anchor].device)
            try:
                result = step.run(*arguments)
            except torch.OutOfMemoryError:
                raise
            except (RuntimeError, ValueError, IndexError, TypeError) as err:
                raise GraphError(_failure(step, arguments, err)) from err
            if isinstance(result, (tuple, list)):
                for place, value in zip(step.outputs, result):
                    values[place] = value
            else:
                values[step.outputs[0]] = result
            for place in step.last:
                values[place] = None
        return [values[place] for place in self._results]


def _failure(step: _Step, arguments: list[Any], err: Exception) -> str:
    shapes = ", ".join("-" if value is None else f"{value.dtype}{list(value.shape)}" for value in arguments)
    return (f"Node {step.label} failed in torch on {shapes}: {err}. Check the shapes that are fed against the model's "
            "inputs: trtkit inspect MODEL")


def _check_edges(nodes: Sequence[Node], given: set[str], edges: Iterable[Edge]) -> None:
    tensors = given.union(*(node.outputs for node in nodes))
    inputs = {(node.outputs[0], position) for node in nodes for position, name in enumerate(node.inputs) if name}
    for edge in edges:
        if edge not in (tensors if isinstance(edge, str) else inputs):
            raise SpecError(f"A fake quantizer stands on {edge!r}, which the graph does not have. Name a tensor, or "
                            "(first output of a node, input position), of this very model")
