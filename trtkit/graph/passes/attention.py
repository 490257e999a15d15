"""Scales around the first MatMul of attention -> one scale on its left operand.

    c * MatMul(a * Q, b * K') -> MatMul((a b c) * Q, K')

Q has one row a token, the scores one row a token and one column a token, so this is also the cheapest place; and the
two operands of the MatMul are left free for Q/DQ.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from trtkit.graph.editor import Editor, gain, producer
from trtkit.graph.rule import Outcome, Pass, for_each

__all__ = ["MERGE_ATTENTION_SCALE"]

_THROUGH = ("Add", "Where", "Softmax", "Mul", "Div")


def _merge(editor: Editor, owner: gs.Graph, node: gs.Node) -> Outcome:
    if any(isinstance(tensor, gs.Constant) for tensor in node.inputs) or not _reaches_softmax(node):
        return False
    scaled = [_scale_before(tensor) for tensor in node.inputs]
    after = _scale_after(editor, node)
    found = [match[2] for match in (*scaled, after) if match is not None]
    left = scaled[0]
    if not found or (found == [left[2]] if left is not None else False):
        return False
    if node.inputs[0].dtype != np.float32:
        return f"its operands are {node.inputs[0].dtype}, not float32"
    if not all(any(scale is own for own in owner.nodes) for scale in found):
        return "a scale lies in the graph around this one"
    if after is not None and editor.is_pinned(after[2].outputs[0]) and editor.is_pinned(node.outputs[0]):
        return "the scaled scores are an output of the graph"
    total = 1.0
    for match in (*scaled, after):
        total *= 1.0 if match is None else match[0]
    query, key = (tensor if match is None else match[1] for tensor, match in zip(node.inputs, scaled))
    scaled_query = editor.variable(f"{query.name}_scaled", query)
    number = editor.constant(f"{query.name}_factor", np.array(total, np.float32))
    place = next(index for index, other in enumerate(owner.nodes) if other is node)
    name = f"{node.name}/scale" if node.name else ""
    owner.nodes.insert(place, gs.Node("Mul", name, inputs=[query, number], outputs=[scaled_query]))
    node.inputs = [scaled_query, key]
    if after is not None:
        editor.bypass(owner, after[2], node.outputs[0])
    return True


def _scale_before(tensor: gs.Tensor) -> tuple[float, gs.Tensor, gs.Node] | None:
    node = producer(tensor, "Mul", "Div")
    scaled = None if node is None else gain(node)
    return None if node is None or scaled is None else (*scaled, node)


def _scale_after(editor: Editor, node: gs.Node) -> tuple[float, gs.Tensor, gs.Node] | None:
    output = node.outputs[0]
    if not editor.is_inner(output):
        return None
    scaled = gain(output.outputs[0])
    return None if scaled is None else (*scaled, output.outputs[0])


def _reaches_softmax(node: gs.Node) -> bool:
    """Whether the scores go to a Softmax, through scales and masks at most."""
    current = node
    for _ in range(4):
        readers = [reader for reader in current.outputs[0].outputs if reader.op in _THROUGH]
        if len(current.outputs[0].outputs) != 1 or not readers:
            return False
        current = readers[0]
        if current.op == "Softmax":
            return True
    return False


MERGE_ATTENTION_SCALE = Pass("merge-attention-scale", "Merge the scales around an attention's MatMul into one, on Q",
                             for_each(("MatMul",), _merge))
