"""Decomposed layer normalization -> LayerNormalization (opset 17).

    d = x - mean(x);   y = d / sqrt(mean(d * d) + epsilon) [* scale] [+ bias]

over the last axes; d * d is written Pow(d, 2) or Mul(d, d), the division as Div or as Mul with a Reciprocal.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from trtkit.graph.editor import Editor, constant, given, producer, rank, scalar
from trtkit.graph.rule import Outcome, Pass, for_each
from trtkit.tensors import Array

__all__ = ["FUSE_LAYERNORM"]


@dataclass(frozen=True)
class _Match:
    source: gs.Tensor
    axis: int
    epsilon: float
    nodes: list[gs.Node]


def _fuse(editor: Editor, owner: gs.Graph, node: gs.Node) -> Outcome:
    match = _normalization(editor, node)
    if match is None or isinstance(match, str):
        return match or False
    shape = _normalized_shape(match)
    if shape is None:
        return "the size of the normalized axes is not known"
    scale, scaled = _parameter(editor, node, "Mul", shape)
    bias, last = _parameter(editor, scaled, "Add", shape)
    nodes = list({id(n): n for n in [*match.nodes, scaled, last]}.values())
    if not all(any(n is own for own in owner.nodes) for n in nodes):
        return "part of it lies in the graph around this one"
    output = last.outputs[0]
    scale = np.ones(shape, np.float32) if scale is None else scale
    # not "_scale": ONNX Runtime's quantizer gives the tensor's own scale that name, and the two would be one
    inputs = [match.source, editor.constant(f"{output.name}_gamma", scale)]
    if bias is not None:
        inputs.append(editor.constant(f"{output.name}_beta", bias))
    fused = gs.Node("LayerNormalization", inputs=inputs, attrs={"axis": match.axis, "epsilon": match.epsilon})
    editor.substitute(owner, nodes, [fused], output)
    return True


def _normalized_shape(match: _Match) -> tuple[int, ...] | None:
    """Return the sizes of the normalized axes, or None where one is dynamic."""
    shape = match.source.shape
    tail = None if shape is None else shape[match.axis:]
    return tuple(map(int, tail)) if tail and all(isinstance(dim, int | np.integer) for dim in tail) else None


def _normalization(editor: Editor, node: gs.Node) -> _Match | str | None:
    """Match Div(d, Sqrt(...)) or Mul(d, Reciprocal(Sqrt(...))) at its last node."""
    split = _quotient(node)
    if split is None:
        return None
    deviation, root, inverse = split
    add = producer(root.inputs[0], "Add")
    mean_square = None if add is None else next((m for t in add.inputs if (m := producer(t, "ReduceMean"))), None)
    square = None if mean_square is None else producer(mean_square.inputs[0], "Mul", "Pow")
    subtract = producer(deviation, "Sub")
    mean = None if subtract is None else producer(subtract.inputs[1], "ReduceMean")
    if add is None or mean_square is None or square is None or subtract is None or mean is None:
        return None
    if square.inputs[0] is not deviation or mean.inputs[0] is not subtract.inputs[0]:
        return None
    if not (square.inputs[1] is deviation if square.op == "Mul" else scalar(square.inputs[1]) == 2):
        return None
    epsilon = next((e for t in add.inputs if (e := scalar(t)) is not None), None)
    if epsilon is None:
        return "its epsilon is computed"
    axis = _trailing_axis(mean, subtract.inputs[0])
    if axis is None or axis != _trailing_axis(mean_square, subtract.inputs[0]):
        return "it does not reduce the last axes with keepdims"
    if subtract.inputs[0].dtype != np.float32:
        return f"its input is {subtract.inputs[0].dtype}, not float32"
    readers = [n for n in deviation.outputs if n is not node and n is not square]
    inner = [root, add, mean_square, square, mean, *inverse]
    if readers or editor.is_pinned(deviation) or not all(editor.is_inner(n.outputs[0]) for n in inner):
        return "a value inside it is read by others as well"
    return _Match(subtract.inputs[0], axis, epsilon, [node, *inner, subtract])


def _quotient(node: gs.Node) -> tuple[gs.Tensor, gs.Node, list[gs.Node]] | None:
    """Return (numerator, the Sqrt node, the Reciprocal node if there is one)."""
    if node.op == "Div":
        root = producer(node.inputs[1], "Sqrt")
        return None if root is None else (node.inputs[0], root, [])
    for position in (1, 0):
        inverse = producer(node.inputs[position], "Reciprocal")
        root = None if inverse is None else producer(inverse.inputs[0], "Sqrt")
        if inverse is not None and root is not None:
            return node.inputs[1 - position], root, [inverse]
    return None


def _trailing_axis(node: gs.Node, source: gs.Tensor) -> int | None:
    """Return the first reduced axis, negative, when a ReduceMean takes the last axes and keeps them."""
    size = rank(source)
    chosen = given(node, 1)
    axes = node.attrs.get("axes") if chosen is None else constant(chosen)
    if size is None or axes is None or not node.attrs.get("keepdims", 1):
        return None
    wanted = sorted(int(axis) % size for axis in axes)
    return -len(wanted) if wanted == list(range(size - len(wanted), size)) else None


def _parameter(editor: Editor, node: gs.Node, operator: str, shape: tuple[int, ...]) -> tuple[Array | None, gs.Node]:
    """Return the constant that the only reader multiplies or adds, over the normalized axes, and that reader."""
    output = node.outputs[0]
    if not editor.is_inner(output):
        return None, node
    reader = output.outputs[0]
    if reader.op != operator or reader.domain:
        return None, node
    value = next((constant(tensor) for tensor in reader.inputs if tensor is not output), None)
    if value is None or value.dtype != np.float32 or value.ndim > len(shape):
        return None, node
    try:
        return np.broadcast_to(value, shape).copy(), reader
    except ValueError:
        return None, node


def _requires(graph: gs.Graph) -> str | None:
    return None if graph.opset >= 17 else f"LayerNormalization needs opset 17, the model has {graph.opset}"


FUSE_LAYERNORM = Pass("fuse-layernorm", "Fuse a decomposed layer normalization into LayerNormalization (opset 17)",
                      for_each(("Div", "Mul"), _fuse), _requires)
