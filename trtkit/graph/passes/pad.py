"""Conv(Pad(x)) -> Conv(x) with pads, and so for AveragePool and MaxPool.

Conv pads with 0. AveragePool divides by padded positions too when count_include_pad is 1. MaxPool pads with -inf.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from trtkit.graph.editor import Editor, constant, given, rank, scalar
from trtkit.graph.rule import Outcome, Pass, for_each

__all__ = ["FOLD_PAD"]

_HOSTS = ("Conv", "AveragePool", "MaxPool")


def _fold(editor: Editor, owner: gs.Graph, node: gs.Node) -> Outcome:
    spatial = _spatial_pads(node)
    if isinstance(spatial, str):
        return spatial
    output = node.outputs[0]
    readers = list(output.outputs)
    if not readers or editor.is_pinned(output):
        return "its output is an output of the graph"
    for reader in readers:
        fault = _misfit(node, reader, spatial)
        if fault:
            return fault
    for reader in readers:
        own = reader.attrs.get("pads", [0] * len(spatial))
        reader.attrs["pads"] = [int(a + b) for a, b in zip(own, spatial)]
        reader.attrs.pop("auto_pad", None)
        if reader.op == "AveragePool":
            reader.attrs["count_include_pad"] = 1
    return editor.bypass(owner, node, node.inputs[0])


def _spatial_pads(node: gs.Node) -> list[int] | str:
    """Return begins and ends of the spatial axes, or why the Pad cannot be part of a convolution."""
    if node.attrs.get("mode", "constant") != "constant":
        return f"its mode is {node.attrs['mode']}"
    size, pads = rank(node.inputs[0]), constant(given(node, 1))
    if size is None or pads is None:
        return "its pads are computed, or its rank is not known"
    axes = given(node, 3)
    positions = np.arange(size) if axes is None else constant(axes)
    if positions is None:
        return "its axes are computed"
    full = np.zeros((2, size), np.int64)
    full[:, positions] = pads.reshape(2, -1)
    if full[:, :2].any():
        return f"it pads batch or channels {pads.tolist()}"
    if (full < 0).any():
        return f"it crops {pads.tolist()}"
    return [int(pad) for pad in full[:, 2:].reshape(-1)]


def _misfit(node: gs.Node, reader: gs.Node, spatial: list[int]) -> str | None:
    where = f"{reader.op} '{reader.name}'"
    if reader.op not in _HOSTS or reader.domain or reader.inputs[0] is not node.outputs[0]:
        return f"{where} reads it as well" if len(node.outputs[0].outputs) > 1 else f"{where} reads it"
    if reader.op == "Conv" and any(tensor is node.outputs[0] for tensor in reader.inputs[1:]):
        return f"{where} takes it as weights"
    if reader.attrs.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID", ""):
        return f"{where} has auto_pad {reader.attrs['auto_pad']}"
    filler = given(node, 2)
    value = 0.0 if filler is None else scalar(filler)
    if value is None:
        return "its value is computed"
    if value != (-np.inf if reader.op == "MaxPool" else 0.0):
        return f"it pads with {value:g}, {where} with {'-inf' if reader.op == 'MaxPool' else 0}"
    return None if reader.op == "Conv" else _pool_misfit(reader, where, spatial)


def _pool_misfit(reader: gs.Node, where: str, spatial: list[int]) -> str | None:
    own = reader.attrs.get("pads", [0] * len(spatial))
    if reader.attrs.get("ceil_mode", 0):
        return f"{where} has ceil_mode"
    if reader.op == "AveragePool" and any(own) and not reader.attrs.get("count_include_pad", 0):
        return f"{where} has pads of its own that it does not count"
    kernel = reader.attrs["kernel_shape"] * 2
    if any(a + b >= size for a, b, size in zip(own, spatial, kernel)):
        return f"{where} would have pads as large as its kernel {reader.attrs['kernel_shape']}"
    return None if len(reader.outputs) == 1 else f"{where} returns indices"


FOLD_PAD = Pass("fold-pad", "Fold Pad into the Conv, AveragePool or MaxPool after it", for_each(("Pad",), _fold))
