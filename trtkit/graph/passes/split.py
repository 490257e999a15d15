"""LayerNormalization -> the nodes that it is short for, for runtimes without it: TensorRT before 8.6.

    d = x - mean(x);   y = d / sqrt(mean(d * d) + epsilon) * scale [+ bias]     over the axes from `axis` on

The reverse of trtkit.graph.passes.layernorm. Source: ONNX operator LayerNormalization, opset 17.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from trtkit.graph.editor import Editor, given, rank
from trtkit.graph.rule import Outcome, Pass, for_each

__all__ = ["SPLIT_LAYERNORM"]

_AXES_AS_INPUT = 18
"""First opset in which ReduceMean takes its axes as an input."""


def _split(editor: Editor, owner: gs.Graph, node: gs.Node) -> Outcome:
    if any(tensor.outputs or editor.is_pinned(tensor) for tensor in node.outputs[1:] if not tensor.is_empty()):
        return "its mean or its deviation is read as well"
    source, output = node.inputs[0], node.outputs[0]
    axis, size = int(node.attrs.get("axis", -1)), rank(source)
    if axis >= 0 and size is None:
        return "the number of dimensions of its input is not known"
    axes = list(range(axis - (size or 0) if axis >= 0 else axis, 0))
    dtype = np.dtype(source.dtype or np.float32)
    nodes: list[gs.Node] = []

    def add(op: str, *inputs: gs.Tensor) -> gs.Tensor:
        made = gs.Variable(editor.fresh(f"{output.name}_{op}"), dtype)
        nodes.append(gs.Node(op, inputs=list(inputs), outputs=[made]))
        return made

    def mean(tensor: gs.Tensor) -> gs.Tensor:
        if owner.opset >= _AXES_AS_INPUT:
            return add("ReduceMean", tensor, editor.constant(f"{output.name}_axes", np.array(axes, np.int64)))
        made = add("ReduceMean", tensor)
        nodes[-1].attrs["axes"] = axes
        return made

    deviation = add("Sub", source, mean(source))
    variance = mean(add("Mul", deviation, deviation))
    epsilon = editor.constant(f"{output.name}_epsilon", np.array(node.attrs.get("epsilon", 1e-5), dtype))
    result = add("Div", deviation, add("Sqrt", add("Add", variance, epsilon)))
    result = add("Mul", result, node.inputs[1])
    bias = given(node, 2)
    if bias is not None:
        add("Add", result, bias)
    nodes[-1].outputs.clear()
    editor.substitute(owner, [node], nodes, output)
    return True


SPLIT_LAYERNORM = Pass("split-layernorm", "Split LayerNormalization into the nodes that it is short for",
                       for_each(("LayerNormalization",), _split))
