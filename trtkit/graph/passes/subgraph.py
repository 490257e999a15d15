"""A part of the graph, cut out by tensor names; outputs that nobody needs, dropped."""

from __future__ import annotations

import onnx
import onnx_graphsurgeon as gs

from trtkit.errors import PassError, SpecError
from trtkit.graph.editor import each_graph
from trtkit.graph.rule import CHECK_BATCH, Comparison, Pass, PassResult
from trtkit.graph.run import random_feeds, run_model

__all__ = ["drop_outputs", "extract"]


def extract(argument: str) -> Pass:
    """Return the pass that keeps what lies between tensors.

    Args:
        argument: "in1,in2->out1": computed tensors or inputs that become the inputs, and those that become the outputs.

    Raises:
        SpecError: It is not of this form.
    """
    left, arrow, right = argument.partition("->")
    inputs, outputs = _names(left), _names(right)
    if not arrow or not inputs or not outputs:
        raise SpecError(f"extract takes tensor names as 'in1,in2->out1', got '{argument}'")

    def apply(graph: gs.Graph) -> PassResult:
        tensors = {t.name: t for node in graph.nodes for t in [*node.inputs, *node.outputs] if not t.is_empty()}
        tensors |= {t.name: t for t in graph.inputs}
        starts, ends = ([_tensor(tensors, name) for name in names] for names in (inputs, outputs))
        for tensor in starts:
            tensor.inputs.clear()
        needed = _needed_inputs(graph, ends)
        extra = sorted(needed - set(inputs))
        if extra:
            raise PassError(f"Outputs {list(outputs)} depend on input '{extra[0]}' as well as on {list(inputs)}. "
                            f"Name it, or a tensor behind it: extract:{','.join([*inputs, *extra])}->{right}")
        graph.inputs, graph.outputs = starts, ends
        return PassResult(1)

    def reference(before: onnx.ModelProto, after: onnx.ModelProto, seed: int) -> Comparison:
        feeds = random_feeds(before, seed, CHECK_BATCH)
        values = run_model(before, feeds, [*inputs, *outputs], optimize=False)
        return Comparison({name: values[name] for name in inputs}, {name: values[name] for name in outputs})

    return Pass(f"extract:{argument}", "Keep what lies between the named tensors", apply, reference=reference)


def drop_outputs(argument: str) -> Pass:
    """Return the pass that removes graph outputs and what only they need.

    Args:
        argument: Names, joined by commas.

    Raises:
        SpecError: There is no name.
    """
    dropped = _names(argument)
    if not dropped:
        raise SpecError("drop-outputs takes output names, got none. Write drop-outputs:NAME")

    def apply(graph: gs.Graph) -> PassResult:
        there = [tensor.name for tensor in graph.outputs]
        missing = [name for name in dropped if name not in there]
        if missing:
            raise PassError(f"There is no output '{missing[0]}' to drop. Outputs are: {', '.join(there)}")
        if set(there) <= set(dropped):
            raise PassError(f"drop-outputs would leave no output of {', '.join(there)}. Keep one")
        graph.outputs = [tensor for tensor in graph.outputs if tensor.name not in dropped]
        return PassResult(len(set(dropped)))

    def reference(before: onnx.ModelProto, after: onnx.ModelProto, seed: int) -> Comparison:
        feeds = random_feeds(before, seed, CHECK_BATCH)
        kept = [output.name for output in after.graph.output]
        return Comparison(feeds, run_model(before, feeds, kept, optimize=False))

    return Pass(f"drop-outputs:{argument}", "Remove outputs and what only they need", apply, reference=reference)


def _names(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))


def _tensor(tensors: dict[str, gs.Tensor], name: str) -> gs.Tensor:
    if name not in tensors:
        near = ", ".join(sorted(tensors, key=lambda other: (name not in other, other))[:6])
        raise PassError(f"extract: there is no tensor '{name}'. There are, among others: {near}")
    tensor = tensors[name]
    if isinstance(tensor, gs.Constant) or tensor.dtype is None:
        raise PassError(f"extract: '{name}' is a constant, or its type is not known. Name a computed tensor beside it")
    return tensor


def _needed_inputs(graph: gs.Graph, ends: list[gs.Tensor]) -> set[str]:
    """Return the names of all tensors upstream of `ends` that no node makes."""
    found: set[str] = set()
    seen: set[int] = set()
    stack = list(ends)
    while stack:
        tensor = stack.pop()
        if id(tensor) in seen or isinstance(tensor, gs.Constant) or tensor.is_empty():
            continue
        seen.add(id(tensor))
        if not tensor.inputs:
            found.add(tensor.name)
        for node in tensor.inputs:
            stack += [*node.inputs, *_captured(node)]
    return found


def _captured(node: gs.Node) -> list[gs.Tensor]:
    inner = [owner for value in node.attrs.values() if isinstance(value, gs.Graph) for owner in each_graph(value)]
    own = {id(t) for owner in inner for t in owner.inputs}
    own |= {id(t) for owner in inner for n in owner.nodes for t in n.outputs}
    return [t for owner in inner for n in owner.nodes for t in n.inputs if id(t) not in own]
