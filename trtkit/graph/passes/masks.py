"""Attention that masks nothing -> attention without a mask.

    Add(scores, Where(true, 0, -inf))          -> scores
    Where(IsNaN(p), 0, p), p = Softmax(scores) -> p         where the scores are finite

torch's scaled_dot_product_attention exports with both: the mask although every position may see every other, and the
guard against rows that are masked altogether, whose Softmax is 0 / 0. Without a mask no row is. (Scores that overflow
float32 would make NaN as well; so they do in torch without a mask.) On ViT-tiny the guards cost ONNX Runtime a sixth of
the INT8 model's time, and TensorRT its fused attention.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from trtkit.graph.editor import Editor, constant, producer
from trtkit.graph.rule import Outcome, Pass, for_each

__all__ = ["REMOVE_EMPTY_MASKS"]

_MOVING = ("Expand", "Reshape", "Unsqueeze", "Squeeze", "Transpose", "Cast", "Identity")


def _remove(editor: Editor, owner: gs.Graph, node: gs.Node) -> Outcome:
    return _zero_mask(editor, owner, node) if node.op == "Add" else _guard(editor, owner, node)


def _zero_mask(editor: Editor, owner: gs.Graph, node: gs.Node) -> Outcome:
    for position in (0, 1):
        mask, scores = node.inputs[position], node.inputs[1 - position]
        if isinstance(mask, gs.Constant) or isinstance(scores, gs.Constant) or _uniform(mask) != 0:
            continue
        if not _within(mask, scores):
            return "the mask may have a larger shape than what it is added to"
        return editor.bypass(owner, node, scores)
    return False


def _uniform(tensor: gs.Tensor) -> float | None:
    """Return the value that every element of a tensor has, whatever its shape; None where that is not known."""
    value = constant(tensor)
    if value is not None:
        first = value.flat[0] if value.size and value.dtype.kind in "bfiu" else None
        return float(first) if first is not None and (value == first).all() else None
    node = producer(tensor)
    if node is None or node.domain not in (None, "", "ai.onnx"):
        return None
    if node.op == "Where":
        condition = _uniform(node.inputs[0])
        return None if condition is None else _uniform(node.inputs[1 if condition else 2])
    if node.op == "Cast" and np.dtype(tensor.dtype or np.float32).kind not in "fb":
        return None
    return _uniform(node.inputs[0]) if node.op in _MOVING else None


def _within(mask: gs.Tensor, scores: gs.Tensor) -> bool:
    """Whether a sum has the shape of `scores`: sizes of the mask are 1, or equal, or both are open."""
    if mask.shape is None or scores.shape is None or len(mask.shape) > len(scores.shape):
        return False
    sizes = scores.shape[len(scores.shape) - len(mask.shape):]
    return all(own in (1, other) or not (isinstance(own, int) or isinstance(other, int))
               for own, other in zip(mask.shape, sizes))


def _guard(editor: Editor, owner: gs.Graph, node: gs.Node) -> Outcome:
    test = producer(node.inputs[0], "IsNaN")
    if test is None or test.inputs[0] is not node.inputs[2]:
        return False
    softmax = producer(node.inputs[2], "Softmax")
    if softmax is None:
        return False
    if not _finite(softmax.inputs[0]):
        return "its scores may be masked"
    return editor.bypass(owner, node, node.inputs[2])


def _finite(scores: gs.Tensor) -> bool:
    """Whether a tensor is a product, at most scaled or shifted by finite constants."""
    value = constant(scores)
    if value is not None:
        return bool(np.isfinite(value).all())
    if producer(scores, "MatMul") is not None:
        return True
    node = producer(scores, "Add", "Mul", "Div")
    return node is not None and any(isinstance(t, gs.Constant) for t in node.inputs) and all(map(_finite, node.inputs))


REMOVE_EMPTY_MASKS = Pass("remove-empty-masks",
                          "Remove attention masks that mask nothing, and the guard against rows that are all masked",
                          for_each(("Add", "Where"), _remove))
