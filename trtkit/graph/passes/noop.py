"""Nodes that return their input unchanged: Op(x) == x -> x.

Identity, inference-time Dropout; Cast to the same type; Slice, Pad, Reshape, Transpose, Expand and Concat that change
neither values nor shape.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from trtkit.graph.editor import Editor, constant, given, producer, rank
from trtkit.graph.rule import Outcome, Pass, for_each

__all__ = ["REMOVE_DROPOUT", "REMOVE_IDENTITIES", "REMOVE_NOOPS"]

_UNBOUNDED = (1 << 31) - 1
"""Slice ends from here on mean "to the end", whatever the size."""


def _identity(editor: Editor, owner: gs.Graph, node: gs.Node) -> Outcome:
    return editor.bypass(owner, node, node.inputs[0])


def _dropout(editor: Editor, owner: gs.Graph, node: gs.Node) -> Outcome:
    training = given(node, 2)
    if training is not None:
        flag = constant(training)
        if flag is None:
            return "its training_mode is computed"
        if bool(flag.reshape(())):
            return "it is in training mode"
    if len(node.outputs) > 1 and (node.outputs[1].outputs or editor.is_pinned(node.outputs[1])):
        return "its mask is used"
    return editor.bypass(owner, node, node.inputs[0])


def _noop(editor: Editor, owner: gs.Graph, node: gs.Node) -> Outcome:
    if not _UNCHANGED[node.op](node):
        return False
    return editor.bypass(owner, node, node.inputs[0])


def _same_type(node: gs.Node) -> bool:
    source = node.inputs[0].dtype
    if source is None:
        return False
    known = source if isinstance(source, int) else onnx.helper.np_dtype_to_tensor_dtype(np.dtype(source))
    return bool(known == node.attrs.get("to"))


def _whole_slice(node: gs.Node) -> bool:
    starts, ends = constant(given(node, 1)), constant(given(node, 2))
    if starts is None or ends is None or node.inputs[0].shape is None:
        return False
    axes, steps = given(node, 3), given(node, 4)
    positions = np.arange(len(starts)) if axes is None else constant(axes)
    strides = np.ones(len(starts)) if steps is None else constant(steps)
    if positions is None or strides is None:
        return False
    shape = node.inputs[0].shape
    return all(stride == 1 and (start == 0 or (isinstance(shape[axis], int) and start <= -shape[axis]))
               and (end >= _UNBOUNDED or (isinstance(shape[axis], int) and end >= shape[axis]))
               for axis, start, end, stride in zip(positions, starts, ends, strides))


def _no_pads(node: gs.Node) -> bool:
    pads = constant(given(node, 1))
    return pads is not None and not pads.any()


def _same_shape(node: gs.Node) -> bool:
    """Reshape to the input's own sizes: at most one of them may be left open, as -1."""
    shape, target = node.inputs[0].shape, constant(node.inputs[1])
    if shape is None or target is None or len(target) != len(shape):
        return False
    copies = not node.attrs.get("allowzero", 0)
    sizes = target.tolist()
    return sizes.count(-1) <= 1 and all(size == -1 or (size == 0 and copies) or (isinstance(dim, int) and size == dim)
                                        for size, dim in zip(sizes, shape))


def _same_order(node: gs.Node) -> bool:
    permutation = node.attrs.get("perm")
    return permutation is not None and list(permutation) == list(range(len(permutation)))


def _same_extent(node: gs.Node) -> bool:
    shape, target = node.inputs[0].shape, constant(node.inputs[1])
    if shape is None or target is None or len(target) > len(shape):
        return False
    return all(size == 1 or (isinstance(dim, int) and size == dim)
               for size, dim in zip(target.tolist(), shape[len(shape) - len(target):]))


def _alone(node: gs.Node) -> bool:
    return len(node.inputs) == 1


_UNCHANGED: dict[str, Callable[[gs.Node], bool]] = {
    "Cast": _same_type,
    "Slice": _whole_slice,
    "Pad": _no_pads,
    "Reshape": _same_shape,
    "Transpose": _same_order,
    "Expand": _same_extent,
    "Concat": _alone,
}


def _join(editor: Editor, owner: gs.Graph, node: gs.Node) -> Outcome:
    """Reshape(Reshape(x)) -> Reshape(x); Transpose(Transpose(x)) -> one Transpose, or none."""
    first = producer(node.inputs[0], node.op)
    if first is None or node.op not in ("Reshape", "Transpose"):
        return False
    if node.op == "Transpose":
        size = rank(node.inputs[0])
        if size is None:
            return False
        backwards = list(reversed(range(size)))
        inner, outer = first.attrs.get("perm", backwards), node.attrs.get("perm", backwards)
        node.attrs["perm"] = [inner[axis] for axis in outer]
    else:
        target = constant(node.inputs[1])
        if target is None or (target == 0).any():
            return False
    node.inputs[0] = first.inputs[0]
    _noop(editor, owner, node)
    return True


REMOVE_IDENTITIES = Pass("remove-identities", "Remove Identity nodes", for_each(("Identity",), _identity))
REMOVE_DROPOUT = Pass("remove-dropout", "Remove Dropout that is not in training mode", for_each(("Dropout",), _dropout))
REMOVE_NOOPS = Pass(
    "remove-noops",
    "Remove Cast, Slice, Pad, Reshape, Transpose, Expand and Concat that change nothing; join Reshapes and Transposes",
    for_each(tuple(_UNCHANGED), _noop, _join),
)
