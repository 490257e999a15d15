"""Initializers of equal type, shape and bytes -> one of them."""

from __future__ import annotations

import hashlib

import numpy as np
import onnx_graphsurgeon as gs

from trtkit.graph.editor import Editor, each_graph
from trtkit.graph.rule import Pass, PassResult

__all__ = ["MERGE_INITIALIZERS"]


def _apply(graph: gs.Graph) -> PassResult:
    editor = Editor(graph)
    changes = 0
    for owner in each_graph(graph):
        first: dict[tuple[str, tuple[int, ...], bytes], gs.Constant] = {}
        for tensor in _constants(owner):
            if editor.is_pinned(tensor):
                continue
            values = tensor.values
            key = (str(values.dtype), values.shape, hashlib.sha256(np.ascontiguousarray(values).tobytes()).digest())
            kept = first.setdefault(key, tensor)
            if kept is not tensor:
                _redirect_within(owner, tensor, kept)
                changes += 1
    return PassResult(changes)


def _constants(owner: gs.Graph) -> list[gs.Constant]:
    unique = {id(t): t for node in owner.nodes for t in node.inputs if isinstance(t, gs.Constant)}
    return list(unique.values())


def _redirect_within(owner: gs.Graph, old: gs.Tensor, new: gs.Tensor) -> None:
    """Only this graph's own nodes: a constant of a subgraph cannot be seen outside it."""
    for node in owner.nodes:
        for index, tensor in enumerate(node.inputs):
            if tensor is old:
                node.inputs[index] = new


MERGE_INITIALIZERS = Pass("merge-initializers", "Keep one of several equal initializers", _apply)
