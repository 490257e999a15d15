"""What does not depend on the input -> constants: f(constants) -> constant, also through shapes.

One sweep in topological order. A node whose inputs are all constants is run by ONNX Runtime. Where a shape is only
partly known, its sizes are followed one by one through the nodes that pick and join them, so Gather(Shape(x), 2) is a
constant although the batch is not, and Reshape(x, Concat(batch, 512)) becomes Reshape(x, [0, 512]). The shapes of what
follows are inferred on the way.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from trtkit.graph.editor import Editor, constant, each_graph, static_shape
from trtkit.graph.rule import Pass, PassResult
from trtkit.graph.run import run_model
from trtkit.tensors import Array

__all__ = ["FOLD_CONSTANTS"]

_KEPT = {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "RandomNormal", "RandomNormalLike",
         "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial"}
"""Q/DQ carry precision that a constant would lose; the others are not functions of their inputs."""

_LIMIT_BYTES = 1 << 20
"""A constant above this size is made only if it is not larger than what it is made from, or if it is a weight."""

_WEIGHTED = {"Conv", "ConvTranspose", "Gemm", "MatMul"}


class _Sweep:
    """State of one sweep: how many constants it made, and the partly known small integer tensors.

    Args:
        root: The main graph.
    """

    def __init__(self, root: gs.Graph) -> None:
        self.editor = Editor(root)
        self.opset = int(root.opset)
        self.sizes: dict[str, Array] = {}
        self.changes = 0
        self.refusals: list[str] = []

    def visit(self, owner: gs.Graph, node: gs.Node) -> None:
        """Fold one node, or work out the shapes of what it makes."""
        if node.domain not in (None, "", "ai.onnx") or any(isinstance(v, gs.Graph) for v in node.attrs.values()):
            return
        self._follow_sizes(node)
        if node.op == "Reshape":
            self._settle_reshape(node)
        self._infer(node)
        if node.op in _KEPT or any(self.editor.is_pinned(output) for output in node.outputs):
            return
        known = self.sizes.get(node.outputs[0].name)
        if known is not None and all(isinstance(size, int) for size in known.flat):
            self._replace(owner, node, [known.astype(node.outputs[0].dtype or np.int64)])
        elif node.op == "Where" and known is not None:
            self._bypass_where(owner, node, known)
        elif all(isinstance(tensor, gs.Constant) or tensor.is_empty() for tensor in node.inputs):
            self._evaluate(owner, node)

    def _follow_sizes(self, node: gs.Node) -> None:
        rule = _SIZE_RULES.get(node.op)
        if rule is None:
            return
        values = [self._value(tensor) for tensor in node.inputs]
        result = rule(node, values)
        if result is not None:
            self.sizes[node.outputs[0].name] = result

    def _value(self, tensor: gs.Tensor) -> Array | None:
        value = constant(tensor)
        if value is None:
            return self.sizes.get(tensor.name)
        return value.astype(object) if value.dtype.kind in "iub" and value.size <= 64 else None

    def _settle_reshape(self, node: gs.Node) -> None:
        """Replace a computed target by a constant with 0 (same size as in the input) and at most one -1."""
        target, shape = self.sizes.get(node.inputs[1].name), node.inputs[0].shape
        if target is None or node.attrs.get("allowzero", 0) or any(size == 0 for size in target):
            return
        own = list(shape or ())[:len(target)] + [None] * (len(target) - len(shape or ()))
        settled = [size if isinstance(size, int) else 0 if size == dim else -1
                   for size, dim in zip(target.tolist(), own)]
        if settled.count(-1) <= 1:
            node.inputs[1] = self.editor.constant(f"{node.outputs[0].name}_shape", np.array(settled, np.int64))
            self.changes += 1

    def _bypass_where(self, owner: gs.Graph, node: gs.Node, known: Array) -> None:
        """Where(false, a, sizes) -> sizes, although the sizes are only partly known."""
        for branch in node.inputs[1:]:
            sizes = self.sizes.get(branch.name)
            if sizes is not None and sizes.tolist() == known.tolist():
                self.changes += self.editor.bypass(owner, node, branch) is True
                return

    def _infer(self, node: gs.Node) -> None:
        if all(static_shape(output) is not None or output.is_empty() for output in node.outputs):
            return
        for name, found in _inferred(node, self.opset).items():
            output = next(output for output in node.outputs if output.name == name)
            output.dtype = onnx.helper.tensor_dtype_to_np_dtype(found.tensor_type.elem_type)
            if found.tensor_type.HasField("shape"):
                output.shape = [dim.dim_value if dim.HasField("dim_value") else dim.dim_param or f"{name}_dim{axis}"
                                for axis, dim in enumerate(found.tensor_type.shape.dim)]

    def _evaluate(self, owner: gs.Graph, node: gs.Node) -> None:
        taken = sum(tensor.values.nbytes for tensor in node.inputs if not tensor.is_empty())
        made = sum(_bytes(output) for output in node.outputs)
        if made > max(taken, _LIMIT_BYTES) and not any(_is_weight(output) for output in node.outputs):
            self.refusals.append(f"{node.op} '{node.name}': as a constant it would take {made / 1e6:.1f} MB")
            return
        self._replace(owner, node, _run(node, self.opset))

    def _replace(self, owner: gs.Graph, node: gs.Node, values: list[Array]) -> None:
        outputs = list(node.outputs)
        self.editor.erase(owner, [node])
        for output, value in zip((output for output in outputs if not output.is_empty()), values):
            if isinstance(output, gs.Variable):
                output.to_constant(np.asarray(value))
        self.changes += 1


def _is_weight(tensor: gs.Tensor) -> bool:
    """Whether a layer reads a tensor as its weight: what folds into weights or quantizes them needs a constant."""
    return any((reader.op in _WEIGHTED and any(tensor is operand for operand in reader.inputs[1:]))
               or (reader.op in ("Reshape", "Transpose") and _is_weight(reader.outputs[0]))
               for reader in tensor.outputs)


def _bytes(tensor: gs.Tensor) -> int:
    shape = static_shape(tensor)
    itemsize = np.dtype(tensor.dtype).itemsize if tensor.dtype is not None else 4
    return int(np.prod(shape)) * itemsize if shape is not None else 0


def _run(node: gs.Node, opset: int) -> list[Array]:
    graph = onnx.helper.make_graph(
        [gs.exporters.onnx_exporter.OnnxExporter.export_node(node)], "constant", [],
        [onnx.ValueInfoProto(name=output.name) for output in node.outputs if not output.is_empty()],
        [onnx.numpy_helper.from_array(tensor.values, tensor.name)
         for tensor in {t.name: t for t in node.inputs}.values() if not tensor.is_empty()])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)], ir_version=10)
    return list(run_model(model, {}, optimize=False, threads=1).values())


def _inferred(node: gs.Node, opset: int) -> dict[str, Any]:
    if not onnx.defs.has(node.op, opset, ""):
        return {}
    types, data = {}, {}
    for tensor in node.inputs:
        if tensor.is_empty():
            continue
        if tensor.dtype is None or tensor.shape is None:
            return {}
        kind = tensor.dtype if isinstance(tensor.dtype, int) else onnx.helper.np_dtype_to_tensor_dtype(tensor.dtype)
        types[tensor.name] = onnx.helper.make_tensor_type_proto(kind, list(tensor.shape))
        value = constant(tensor) if isinstance(tensor, gs.Constant) and np.prod(tensor.shape) <= 64 else None
        if value is not None:
            data[tensor.name] = onnx.numpy_helper.from_array(value, tensor.name)
    proto = gs.exporters.onnx_exporter.OnnxExporter.export_node(node)
    try:
        found: dict[str, Any] = onnx.shape_inference.infer_node_outputs(
            onnx.defs.get_schema(node.op, opset, ""), proto, types, data,
            opset_imports=[onnx.helper.make_opsetid("", opset)])
    except (onnx.shape_inference.InferenceError, RuntimeError):
        return {}
    return {name: kind for name, kind in found.items() if kind.HasField("tensor_type")}


def _shape(node: gs.Node, values: list[Array | None]) -> Array | None:
    shape = node.inputs[0].shape
    if shape is None or any(dim is None for dim in shape):
        return None
    return np.array([dim if isinstance(dim, str) else int(dim) for dim in shape],
                    object)[node.attrs.get("start", 0):node.attrs.get("end")]


def _gather(node: gs.Node, values: list[Array | None]) -> Array | None:
    table, index = values
    if table is None or index is None or not _all_ints(index) or table.ndim != 1:
        return None
    return np.array(table[index.astype(np.int64)], object)


def _slice(node: gs.Node, values: list[Array | None]) -> Array | None:
    bounds = [value for value in values[1:] if value is not None and value.size == 1 and _all_ints(value)]
    if values[0] is None or values[0].ndim != 1 or len(bounds) != len(node.inputs) - 1:
        return None
    start, end, *rest = (int(bound.reshape(())) for bound in bounds)
    step = rest[1] if len(rest) > 1 else 1
    return values[0][start:end:step] if step > 0 else None


def _concat(node: gs.Node, values: list[Array | None]) -> Array | None:
    known = [value for value in values if value is not None]
    return np.concatenate(known) if len(known) == len(values) and all(v.ndim == 1 for v in known) else None


def _unsqueeze(node: gs.Node, values: list[Array | None]) -> Array | None:
    return values[0].reshape(1) if values[0] is not None and values[0].ndim == 0 else None


def _squeeze(node: gs.Node, values: list[Array | None]) -> Array | None:
    return values[0].reshape(()) if values[0] is not None and values[0].shape == (1,) else None


def _same(node: gs.Node, values: list[Array | None]) -> Array | None:
    integral = node.attrs.get("to", onnx.TensorProto.INT64) == onnx.TensorProto.INT64
    return values[0] if integral else None


def _flatten(node: gs.Node, values: list[Array | None]) -> Array | None:
    known, target = values
    flat = known is not None and target is not None and known.ndim == 1 and target.tolist() == [-1]
    return known if flat else None


def _equal(node: gs.Node, values: list[Array | None]) -> Array | None:
    """A size that is not known is not negative, so it does not equal -1."""
    if values[0] is None or values[1] is None:
        return None
    pairs = np.broadcast(values[0], values[1])
    shape, found = pairs.shape, []
    for first, second in pairs:
        numbers = [int(v) for v in (first, second) if not isinstance(v, str)]
        if len(numbers) == 0 or (len(numbers) == 1 and numbers[0] >= 0):
            return None
        found.append(len(numbers) == 2 and numbers[0] == numbers[1])
    return np.array(found, object).reshape(shape)


def _where(node: gs.Node, values: list[Array | None]) -> Array | None:
    condition, first, second = values
    if condition is None or first is None or second is None or not _all_ints(condition):
        return None
    return np.asarray(np.where(condition.astype(bool), first, second))


def _all_ints(value: Array) -> bool:
    return all(isinstance(entry, int | np.integer) for entry in value.flat)


_SIZE_RULES: dict[str, Callable[[gs.Node, list[Array | None]], Array | None]] = {
    "Shape": _shape,
    "Gather": _gather,
    "Slice": _slice,
    "Concat": _concat,
    "Unsqueeze": _unsqueeze,
    "Squeeze": _squeeze,
    "Cast": _same,
    "Identity": _same,
    "Reshape": _flatten,
    "Equal": _equal,
    "Where": _where,
}


def _apply(graph: gs.Graph) -> PassResult:
    sweep = _Sweep(graph)
    for owner in each_graph(graph):
        for node in list(owner.nodes):
            if node.outputs:
                sweep.visit(owner, node)
    return PassResult(sweep.changes, tuple(sweep.refusals))


FOLD_CONSTANTS = Pass("fold-constants", "Compute what does not depend on the input, shapes included", _apply)
