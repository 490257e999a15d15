"""ReduceMean over all spatial axes -> GlobalAveragePool: the form that quantizers and TensorRT know as pooling."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from trtkit.graph.editor import Editor, constant, given, rank
from trtkit.graph.rule import Outcome, Pass, for_each

__all__ = ["FUSE_GLOBAL_POOL"]


def _fuse(editor: Editor, owner: gs.Graph, node: gs.Node) -> Outcome:
    size = rank(node.inputs[0])
    chosen = given(node, 1)
    axes = node.attrs.get("axes") if chosen is None else constant(chosen)
    if size not in (4, 5) or axes is None or sorted(int(axis) % size for axis in axes) != list(range(2, size)):
        return False
    if not node.attrs.get("keepdims", 1):
        return "it drops the axes that it reduces"
    editor.substitute(owner, [node], [gs.Node("GlobalAveragePool", inputs=[node.inputs[0]])], node.outputs[0])
    return True


FUSE_GLOBAL_POOL = Pass("fuse-global-pool", "Write ReduceMean over height and width as GlobalAveragePool",
                        for_each(("ReduceMean",), _fuse))
