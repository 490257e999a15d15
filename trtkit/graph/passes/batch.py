"""A dynamic batch dimension -> a fixed size."""

from __future__ import annotations

import onnx
import onnx_graphsurgeon as gs

from trtkit.errors import SpecError
from trtkit.graph.editor import each_graph
from trtkit.graph.rule import Comparison, Pass, PassResult
from trtkit.graph.run import random_feeds, run_model

__all__ = ["fix_batch"]


def fix_batch(argument: str) -> Pass:
    """Return the pass that sets the dynamic first dimension of all inputs to a size, wherever its name stands.

    Args:
        argument: The size, such as "4".

    Raises:
        SpecError: It is no positive number.
    """
    if not argument.isdecimal() or int(argument) < 1:
        raise SpecError(f"fix-batch takes a size of 1 or more, got '{argument}'. Write fix-batch:4")
    size = int(argument)

    def requires(graph: gs.Graph) -> str | None:
        return None if _symbols(graph) else f"no input has a dynamic batch: {[(t.name, t.shape) for t in graph.inputs]}"

    def apply(graph: gs.Graph) -> PassResult:
        symbols = _symbols(graph)
        changes = 0
        for tensor in graph.inputs:
            fixed = [size if dim in symbols or (axis == 0 and dim is None) else dim
                     for axis, dim in enumerate(tensor.shape or ())]
            if tensor.shape and fixed != list(tensor.shape):
                tensor.shape = fixed
                changes += 1
        _forget_shapes(graph)
        return PassResult(changes)

    def ensures(graph: gs.Graph) -> str | None:
        symbols = _symbols(graph)
        return f"inputs still have the batch {', '.join(sorted(symbols))}" if symbols else None

    return Pass(f"fix-batch:{size}", f"Set the dynamic batch to {size}", apply, requires, ensures, _reference)


def _symbols(graph: gs.Graph) -> set[str]:
    return {str(tensor.shape[0]) for tensor in graph.inputs
            if tensor.shape and (tensor.shape[0] is None or isinstance(tensor.shape[0], str))}


def _forget_shapes(graph: gs.Graph) -> None:
    """Inner shapes follow from the inputs; those of graph outputs have to be stated, their sizes open where dynamic."""
    inputs = {id(tensor) for tensor in graph.inputs}
    for owner in each_graph(graph):
        for node in owner.nodes:
            for tensor in node.outputs:
                if not isinstance(tensor, gs.Variable) or id(tensor) in inputs:
                    continue
                if tensor.shape is not None:
                    tensor.shape = [dim if isinstance(dim, int) else None for dim in tensor.shape]


def _reference(before: onnx.ModelProto, after: onnx.ModelProto, seed: int) -> Comparison:
    """Feed both with inputs of the fixed size."""
    feeds = random_feeds(after, seed)
    return Comparison(feeds, run_model(before, feeds, optimize=False))
