"""A model at one opset -> the same at another.

The dynamo exporter writes opset 18 and up, boards with TensorRT 8.x take 17. onnx's own converter stops at operators
that only gained something in 18 (Pad, Split) and leaves attributes that 17 does not know (ReduceMean), so the step
from 18 to 17 is made here, node by node: an operator that uses nothing new is left as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial

import numpy as np
import onnx
from onnx import numpy_helper, version_converter

from trtkit.export.exporters import ExporterFailed, reason

__all__ = ["PROTOBUF_LIMIT", "at_opset", "graphs_of", "opset_of", "size_bytes"]

PROTOBUF_LIMIT = (1 << 31) - (1 << 20)
"""Largest model in bytes that is serialized as a whole; protobuf ends at 2 GiB."""

Constants = Mapping[str, onnx.TensorProto]


def at_opset(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    """Return the model converted to `opset`; itself when it is there already, or changed on the way from 18 to 17.

    Raises:
        ExporterFailed: No conversion exists, with the reason, or the model is above protobuf's 2 GB.
    """
    wrote = opset_of(model)
    if wrote >= 18 > opset:
        model = _by_converter(model, 18, wrote)
        _lower_to_17(model)
    return _by_converter(model, opset, wrote)


def opset_of(model: onnx.ModelProto) -> int:
    """Return the opset of the default domain; 0 when the model declares none."""
    return next((int(entry.version) for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)


def size_bytes(model: onnx.ModelProto) -> int:
    """Return the size of all weights in bytes, which is nearly all of a large model."""
    return sum(len(tensor.raw_data) or tensor.ByteSize() for graph in graphs_of(model.graph)
               for tensor in graph.initializer)


def graphs_of(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """Yield the graph and every graph inside its nodes."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in ([attribute.g] if attribute.HasField("g") else []) + list(attribute.graphs):
                yield from graphs_of(inner)


def _by_converter(model: onnx.ModelProto, opset: int, wrote: int) -> onnx.ModelProto:
    if opset_of(model) == opset:
        return model
    if size_bytes(model) >= PROTOBUF_LIMIT:
        raise ExporterFailed(f"wrote opset {wrote}, and a model above 2 GB cannot be converted to {opset}")
    try:
        converted = version_converter.convert_version(model, opset)
    except (RuntimeError, ValueError, onnx.checker.ValidationError) as err:
        raise ExporterFailed(f"wrote opset {wrote}, and it does not convert to {opset}: {reason(err)}") from err
    if opset_of(converted) != opset:
        raise ExporterFailed(f"wrote opset {wrote}, and conversion to {opset} stopped at {opset_of(converted)}")
    return converted


def _lower_to_17(model: onnx.ModelProto) -> None:
    constants = _constants(model)
    for graph in graphs_of(model.graph):
        for node in graph.node:
            if node.domain in ("", "ai.onnx") and onnx.defs.get_schema(node.op_type, 18).since_version == 18:
                _lower_node(node, constants)
    for entry in model.opset_import:
        if entry.domain in ("", "ai.onnx"):
            entry.version = 17
    _drop_unread_initializers(model.graph)


def _constants(model: onnx.ModelProto) -> Constants:
    found = {tensor.name: tensor for graph in graphs_of(model.graph) for tensor in graph.initializer}
    for graph in graphs_of(model.graph):
        for node in graph.node:
            if node.op_type == "Constant" and node.attribute[0].name == "value":
                found[node.output[0]] = node.attribute[0].t
            elif node.op_type == "Constant" and node.attribute[0].name == "value_ints":
                values = np.array(node.attribute[0].ints, np.int64)
                found[node.output[0]] = numpy_helper.from_array(values, node.output[0])
    return found


def _lower_node(node: onnx.NodeProto, constants: Constants) -> None:
    lower = _lower_reduction if node.op_type.startswith("Reduce") else _LOWER_TO_17.get(node.op_type)
    if lower is None:
        raise ExporterFailed(f"wrote opset 18, and {node.op_type} (node '{node.name}') is not in opset 17")
    lower(node, constants)


def _lower_reduction(node: onnx.NodeProto, constants: Constants) -> None:
    """Axes become an attribute; without any, noop_with_empty_axes decides between nothing and everything."""
    axes = node.input[1] if len(node.input) > 1 else ""
    no_operation = _attribute(node, "noop_with_empty_axes")
    values: list[int] = []
    if axes:
        if axes not in constants:
            raise _not_in_17(node, "its axes are computed")
        values = [int(axis) for axis in numpy_helper.to_array(constants[axes])]
    del node.input[1:]
    _drop_attributes(node, "noop_with_empty_axes")
    if values:
        node.attribute.append(onnx.helper.make_attribute("axes", values))
    elif no_operation is not None and no_operation.i:
        node.op_type = "Identity"
        node.ClearField("attribute")


def _lower_pad(node: onnx.NodeProto, constants: Constants) -> None:
    mode = _attribute(node, "mode")
    if (len(node.input) > 3 and node.input[3]) or (mode is not None and mode.s == b"wrap"):
        raise _not_in_17(node, "it pads chosen axes, or wraps")


def _lower_split(node: onnx.NodeProto, constants: Constants) -> None:
    if _attribute(node, "num_outputs") is not None:
        # Opset 17 splits by the number of outputs as well, into equal parts only; the checks see unequal ones.
        _drop_attributes(node, "num_outputs")


def _lower_by_attributes(node: onnx.NodeProto, constants: Constants, *, new: Mapping[str, object]) -> None:
    """Drop attributes that opset 18 added, where they have their default."""
    for name, default in new.items():
        attribute = _attribute(node, name)
        if attribute is not None and onnx.helper.get_attribute_value(attribute) != default:
            raise _not_in_17(node, f"its attribute {name} is set")
    _drop_attributes(node, *new)


def _lower_scatter(node: onnx.NodeProto, constants: Constants) -> None:
    reduction = _attribute(node, "reduction")
    if reduction is not None and reduction.s in (b"min", b"max"):
        raise _not_in_17(node, f"it reduces by {reduction.s.decode()}")


_LOWER_TO_17: Mapping[str, Callable[[onnx.NodeProto, Constants], None]] = {
    "Pad": _lower_pad,
    "Split": _lower_split,
    "ScatterElements": _lower_scatter,
    "ScatterND": _lower_scatter,
    "Resize": partial(_lower_by_attributes, new={"antialias": 0, "axes": [], "keep_aspect_ratio_policy": b"stretch"}),
    "LpPool": partial(_lower_by_attributes, new={"ceil_mode": 0, "dilations": [1, 1]}),
}
"""Operators that opset 18 changed; one that it added is not here and has no form in 17."""


def _not_in_17(node: onnx.NodeProto, why: str) -> ExporterFailed:
    return ExporterFailed(f"wrote opset 18, and {node.op_type} (node '{node.name}') has no form in opset 17: {why}")


def _attribute(node: onnx.NodeProto, name: str) -> onnx.AttributeProto | None:
    return next((attribute for attribute in node.attribute if attribute.name == name), None)


def _drop_attributes(node: onnx.NodeProto, *names: str) -> None:
    kept = [attribute for attribute in node.attribute if attribute.name not in names]
    node.ClearField("attribute")
    node.attribute.extend(kept)


def _drop_unread_initializers(top: onnx.GraphProto) -> None:
    read = {name for graph in graphs_of(top) for node in graph.node for name in node.input}
    read |= {value.name for graph in graphs_of(top) for value in graph.output}
    for graph in graphs_of(top):
        for index in reversed(range(len(graph.initializer))):
            if graph.initializer[index].name not in read:
                del graph.initializer[index]

