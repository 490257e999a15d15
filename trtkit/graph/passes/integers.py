"""int64 -> int32 where ONNX allows it and the values fit, for TensorRT 8.x, which has no INT64.

Tensors that an operator's schema ties to one type (the inputs of Concat, say) change together or not at all. What feeds
an input that takes int64 only (the shape of Reshape), or comes from an operator that makes int64 only (Shape, ArgMax),
stays; so do constants beyond 32 bits, except slice bounds, where they mean "to the end" and are cut to the largest.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from trtkit.graph.editor import each_graph
from trtkit.graph.rule import CHECK_BATCH, Comparison, Pass, PassResult
from trtkit.graph.run import random_feeds, run_model

__all__ = ["INT64_TO_INT32"]

_LOW, _HIGH = np.iinfo(np.int32).min, np.iinfo(np.int32).max


class _Groups:
    """Tensors that have to change together, and why some cannot (union-find by tensor name)."""

    def __init__(self) -> None:
        self.parents: dict[str, str] = {}
        self.reasons: dict[str, str] = {}
        self.tensors: dict[str, gs.Tensor] = {}

    def root(self, name: str) -> str:
        while self.parents.setdefault(name, name) != name:
            name = self.parents[name]
        return name

    def add(self, tensor: gs.Tensor) -> str:
        self.tensors[tensor.name] = tensor
        return self.root(tensor.name)

    def join(self, first: gs.Tensor, second: gs.Tensor) -> None:
        one, other = self.add(first), self.add(second)
        if one != other:
            self.parents[one] = other
            if one in self.reasons:
                self.reasons.setdefault(other, self.reasons[one])

    def forbid(self, tensor: gs.Tensor, reason: str) -> None:
        self.reasons.setdefault(self.add(tensor), reason)

    def members(self) -> dict[str, list[gs.Tensor]]:
        groups: dict[str, list[gs.Tensor]] = {}
        for name, tensor in self.tensors.items():
            groups.setdefault(self.root(name), []).append(tensor)
        return groups


def _is_int64(tensor: gs.Tensor) -> bool:
    return bool(not tensor.is_empty() and tensor.dtype == np.int64)


def _apply(graph: gs.Graph) -> PassResult:
    groups = _Groups()
    for owner in each_graph(graph):
        for node in owner.nodes:
            _tie(groups, node, int(graph.opset))
        inner = owner is not graph
        for tensor in [*owner.inputs, *owner.outputs]:
            if _is_int64(tensor):
                groups.add(tensor)
                if inner:
                    groups.forbid(tensor, "it crosses the border of a subgraph")
    changes = 0
    refusals = []
    for name, members in groups.members().items():
        reason = groups.reasons.get(name) or _misfit(members)
        if reason:
            refusals.append(f"{', '.join(sorted(t.name for t in members)[:3])}: {reason}")
        else:
            changes += len(members)
            for tensor in members:
                _narrow(tensor)
    return PassResult(changes, tuple(refusals))


def _tie(groups: _Groups, node: gs.Node, opset: int) -> None:
    """Enter what an operator's schema says about the types of its int64 tensors."""
    slots = [*enumerate(node.inputs), *enumerate(node.outputs)]
    int64 = [tensor for _, tensor in slots if _is_int64(tensor)]
    if not int64:
        return
    known = not node.domain and onnx.defs.has(node.op, opset, "")
    if not known or any(isinstance(value, gs.Graph) for value in node.attrs.values()):
        for tensor in int64:
            groups.forbid(tensor, f"{node.op} '{node.name}' uses it")
        return
    schema = onnx.defs.get_schema(node.op, opset, "")
    same: dict[str, gs.Tensor] = {}
    for tensors, formals in ((node.inputs, schema.inputs), (node.outputs, schema.outputs)):
        for index, tensor in enumerate(tensors):
            if not _is_int64(tensor):
                continue
            formal = formals[min(index, len(formals) - 1)]
            groups.add(tensor)
            if not _takes_int32(formal) and not _made_by_attribute(node, tensor):
                groups.forbid(tensor, f"{node.op} '{node.name}' has int64 only for its {formal.name}")
            elif _is_variadic_mix(formal) or _made_by_attribute(node, tensor):
                continue
            elif formal.type_str in same:
                groups.join(tensor, same[formal.type_str])
            else:
                same[formal.type_str] = tensor


def _takes_int32(formal: Any) -> bool:
    return "tensor(int32)" in formal.types


def _is_variadic_mix(formal: Any) -> bool:
    return not formal.is_homogeneous


def _made_by_attribute(node: gs.Node, tensor: gs.Tensor) -> bool:
    """Whether the node takes the type of its output from an attribute, which can change with it."""
    return bool(node.op in ("Cast", "ConstantOfShape", "EyeLike") and node.outputs and tensor is node.outputs[0])


def _misfit(members: list[gs.Tensor]) -> str | None:
    for tensor in members:
        if isinstance(tensor, gs.Constant) and not _only_bounds(tensor):
            values = tensor.values
            if values.size and (values.min() < _LOW or values.max() > _HIGH):
                return f"'{tensor.name}' has values from {values.min()} to {values.max()}, beyond 32 bits"
    return None


def _only_bounds(tensor: gs.Constant) -> bool:
    return all(reader.op == "Slice" and reader.inputs[0] is not tensor for reader in tensor.outputs)


def _narrow(tensor: gs.Tensor) -> None:
    if isinstance(tensor, gs.Constant):
        tensor.values = np.clip(tensor.values, _LOW, _HIGH).astype(np.int32)
        return
    tensor.dtype = np.dtype(np.int32)
    if tensor.inputs and tensor.inputs[0].op in ("Cast", "EyeLike"):
        tensor.inputs[0].attrs["to" if tensor.inputs[0].op == "Cast" else "dtype"] = int(onnx.TensorProto.INT32)
    elif tensor.inputs and tensor.inputs[0].op == "ConstantOfShape":
        value = tensor.inputs[0].attrs["value"]
        value.values = value.values.astype(np.int32)


def _reference(before: onnx.ModelProto, after: onnx.ModelProto, seed: int) -> Comparison:
    """Feed the same numbers; int64 inputs and outputs may have become int32."""
    feeds = random_feeds(before, seed, CHECK_BATCH)
    outputs = run_model(before, feeds, optimize=False)
    kinds = {info.name: info.type.tensor_type.elem_type for info in [*after.graph.input, *after.graph.output]}

    def as_after(name: str, array: Any) -> Any:
        return array.astype(np.int32) if kinds[name] == onnx.TensorProto.INT32 else array

    return Comparison({name: as_after(name, array) for name, array in feeds.items()},
                      {name: as_after(name, array) for name, array in outputs.items()})


INT64_TO_INT32 = Pass("int64-to-int32", "Use int32 for int64 where values fit and ONNX allows it (TensorRT 8.x)",
                      _apply, reference=_reference)
