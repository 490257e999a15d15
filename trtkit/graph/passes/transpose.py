"""The keys of attention, transposed as a stack of matrices -> transposed as they are.

    Reshape [B*H, S, D] -> Transpose (0, 2, 1) -> Reshape [B, H, D, S]      ->      Transpose (0, 1, 3, 2)

torch's exporter writes it so; one Transpose joins with the one that splits the heads (remove-noops).
"""

from __future__ import annotations

import onnx_graphsurgeon as gs

from trtkit.graph.editor import Editor, producer
from trtkit.graph.rule import Outcome, Pass, for_each

__all__ = ["UNFLATTEN_TRANSPOSES"]


def _unflatten(editor: Editor, owner: gs.Graph, node: gs.Node) -> Outcome:
    transpose = producer(node.inputs[0], "Transpose")
    flatten = None if transpose is None else producer(transpose.inputs[0], "Reshape")
    if transpose is None or flatten is None or list(transpose.attrs.get("perm", ())) != [0, 2, 1]:
        return False
    source = flatten.inputs[0]
    before, matrices, after = source.shape, flatten.outputs[0].shape, node.outputs[0].shape
    if before is None or matrices is None or after is None or len(before) < 4 or len(before) != len(after):
        return False
    tail = [*before[1:-2], before[-1], before[-2]]
    if not all(isinstance(size, int) for size in tail) or list(matrices[1:]) != list(before[-2:]):
        return False
    if list(after[1:]) != tail:
        return False
    if not all(any(part is own for own in owner.nodes) for part in (transpose, flatten)):
        return "part of it lies in the graph around this one"
    if not (editor.is_inner(transpose.outputs[0]) and editor.is_inner(flatten.outputs[0])):
        return "a value inside it is read by others as well"
    last = len(before) - 1
    order = [*range(last - 1), last, last - 1]
    editor.substitute(owner, [node, transpose, flatten], [gs.Node("Transpose", inputs=[source], attrs={"perm": order})],
                      node.outputs[0])
    return True


UNFLATTEN_TRANSPOSES = Pass("unflatten-transposes", "Transpose stacked matrices as they are, without two Reshapes",
                            for_each(("Reshape",), _unflatten))
