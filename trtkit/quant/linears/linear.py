"""Which products with a constant matrix a graph has, and their replacement: y = x @ w + c, from MatMul or Gemm."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from trtkit.errors import SpecError
from trtkit.findings import some_of
from trtkit.precision import QuantSpec
from trtkit.quant.index import GraphIndex, as_tensor, attribute, hide_initializers, node_name, store_nodes
from trtkit.quant.placement import end_layers
from trtkit.tensors import Array

__all__ = ["Linear", "LinearEditor", "replace_linears"]

_FEWEST_COLUMNS = 8
"""Below this, rounding the input to integers costs more than the product: one pass over x against N of them."""

_CONVOLUTIONS = ("Conv", "ConvTranspose")


@dataclass(frozen=True)
class Linear:
    """A product with a constant matrix.

    Attributes:
        node: MatMul or Gemm.
        source: Name of x.
        weight: w, float32, shape (K, N), Gemm's alpha and transB worked in.
        key: The same for layers that have the same weight.
        addend: Name of the tensor that Gemm adds to the product; "" where there is none.
    """

    node: Any
    source: str
    weight: Array
    key: tuple[str, bool, float]
    addend: str


class LinearEditor:
    """Collects the nodes and initializers that replace linear layers.

    Args:
        index: The graph; names are reserved in it.
    """

    def __init__(self, index: GraphIndex) -> None:
        self._index = index
        self._made: dict[tuple[Any, str], str] = {}
        self.initializers: dict[str, Any] = dict(index.initializers)
        self.nodes: list[Any] = []

    def once(self, key: Any, wanted: str, value: Callable[[], Array]) -> str:
        """Return the name of an initializer that is stored once for all who ask with the same key."""
        if (key, wanted) not in self._made:
            self._made[key, wanted] = self.store(wanted, value())
        return self._made[key, wanted]

    def store(self, wanted: str, value: Array) -> str:
        """Store an initializer and return its name, `wanted` or one like it."""
        name = self._index.new_name(wanted)
        self.initializers[name] = as_tensor(name, value)
        return name

    def emit(self, op_type: str, inputs: Sequence[str], outputs: Sequence[str], *, domain: str = "",
             **attributes: Any) -> list[str]:
        """Append a node and return the names of its outputs, as wanted or like it."""
        names = [self._index.new_name(output) for output in outputs]
        self.nodes.append(onnx.helper.make_node(op_type, inputs, names, name=f"{names[0]}_{op_type}", domain=domain,
                                                **attributes))
        return names

    def finish(self, linear: Linear, product: str) -> None:
        """Let the last node, which made `product`, make the layer's output, Gemm's addend added."""
        output = linear.node.output[0]
        if linear.addend:
            self.nodes.append(onnx.helper.make_node("Add", [product, linear.addend], [output], name=f"{output}_Add"))
        else:
            self.nodes[-1].output[0] = output


def replace_linears(model: onnx.ModelProto, spec: QuantSpec, precision: str,
                    replace: Callable[[LinearEditor, Linear], str | None]) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """Return a copy of a model whose linear layers are replaced.

    Args:
        model: FP32, types inferred, weights as initializers.
        spec: Nodes that stay as they are, and whether the first and the last layer do.
        precision: What the replacement computes in, for messages.
        replace: Appends the replacement of one layer to the editor; or returns why the layer has to stay.

    Returns:
        The model, and notes for people: how many layers were replaced, and which stayed for what reason.

    Raises:
        SpecError: No layer can be replaced, or a selector matches nothing.
    """
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    hide_initializers(changed)
    index = GraphIndex(changed)
    kept = spec.keep.select((node_name(node), node.op_type) for node in index.nodes)
    if not spec.ends:
        kept |= end_layers(index)
    editor = LinearEditor(index)
    done, stayed = 0, dict[str, list[str]]()
    for node in index.nodes:
        linear = _linear(index, node)
        reason: str | None = ""
        if linear is not None:
            reason = "kept" if node_name(node) in kept else linear if isinstance(linear, str) else replace(editor,
                                                                                                          linear)
        if reason is None:
            done += 1
            continue
        if reason:
            stayed.setdefault(reason, []).append(node_name(node))
        editor.nodes.append(node)
    notes = tuple(f"{len(names)} layers stay in FP32, {reason}: {some_of(names)}"
                  for reason, names in stayed.items())
    convolutions = sum(node.op_type in _CONVOLUTIONS for node in index.nodes)
    if not done:
        raise SpecError(f"{precision} quantizes MatMul and Gemm with constant weights; this model has none that can be"
                        f"{'; '.join(('', *notes))}, and {convolutions} convolutions. Use precision int8, which "
                        "calibrates, or fp32")
    if convolutions:
        notes += (f"{convolutions} convolutions stay in FP32",)
    store_nodes(changed.graph, index, editor.nodes, editor.initializers.values())
    return changed, (f"{done} weights in {precision}", *notes)


def _linear(index: GraphIndex, node: Any) -> Linear | str | None:
    """Return a layer, why it is none although it looks like one, or None."""
    if node.op_type not in ("MatMul", "Gemm") or node.domain not in ("", "ai.onnx") or len(node.input) < 2:
        return None
    weight = index.constant(node.input[1])
    if weight is None or index.constant(node.input[0]) is not None or not index.is_float(node.output[0]):
        return None
    if weight.ndim != 2:
        return "their weights are no matrices"
    if not np.isfinite(weight).all():
        return "their weights are not finite"
    if attribute(node, "transA", 0):
        return "their inputs are transposed"
    alpha, transposed = attribute(node, "alpha", 1.0), bool(attribute(node, "transB", 0))
    addend = node.input[2] if len(node.input) > 2 else ""
    if addend and attribute(node, "beta", 1.0) != 1.0:
        return "their beta is not 1"
    matrix = weight.T if transposed else weight
    if matrix.shape[1] < _FEWEST_COLUMNS:
        return f"they have fewer than {_FEWEST_COLUMNS} outputs"
    matrix = matrix if alpha == 1.0 else matrix * np.float32(alpha)
    return Linear(node, node.input[0], matrix, (node.input[1], transposed, alpha), addend)
