"""What an exporter wrote -> what was asked for: opset, IR version, names and sizes of inputs and outputs, no traces.

Exporters leave the name of the adapter in front of names, stack traces of the machine in metadata, and invented
names for sizes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import onnx

from trtkit.export.adapter import WRAPPED
from trtkit.export.exporters import ExporterFailed, reason
from trtkit.export.opset import PROTOBUF_LIMIT, at_opset, graphs_of, size_bytes

__all__ = ["finish"]


def finish(model: onnx.ModelProto, opset: int, sizes: Mapping[str, Sequence[int | str]]) -> onnx.ModelProto:
    """Return the model at `opset`, tidied and checked.

    Args:
        model: As an exporter wrote it; may be changed.
        opset: Of the default domain.
        sizes: Shape of every input and output as it is to be declared.

    Raises:
        ExporterFailed: The opset cannot be reached, or onnx.checker refuses the model.
    """
    model = at_opset(model, opset)
    model.ir_version = onnx.helper.find_min_ir_version_for(model.opset_import)
    model.producer_name, model.producer_version = "trtkit", ""
    _drop_traces(model)
    _drop_wrapper_name(model.graph)
    for value in (*model.graph.input, *model.graph.output):
        if value.name in sizes:
            _declare(value, sizes[value.name])
    if size_bytes(model) < PROTOBUF_LIMIT:
        try:
            onnx.checker.check_model(model)
        except onnx.checker.ValidationError as err:
            raise ExporterFailed(f"onnx.checker refuses the model: {reason(err)}") from err
    return model


def _drop_traces(model: onnx.ModelProto) -> None:
    model.ClearField("doc_string")
    model.ClearField("metadata_props")
    for graph in graphs_of(model.graph):
        for part in (graph, *graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer):
            part.ClearField("doc_string")
            if "metadata_props" in part.DESCRIPTOR.fields_by_name:
                part.ClearField("metadata_props")


def _drop_wrapper_name(top: onnx.GraphProto) -> None:
    """Rename "module.conv.weight" to "conv.weight" and "/module/conv/Conv" to "/conv/Conv", where that is free."""
    graphs = list(graphs_of(top))
    used = {name for graph in graphs for node in graph.node for name in (*node.input, *node.output)}
    used |= {value.name for graph in graphs for value in (*graph.input, *graph.output, *graph.initializer)}
    fixed = {value.name for value in (*top.input, *top.output)}
    new = {name: _bare(name) for name in used if _bare(name) != name and name not in fixed}
    claims = Counter(new.values())
    taken = used - set(new)
    new = {name: bare for name, bare in new.items() if bare not in taken and claims[bare] == 1}
    for graph in graphs:
        for node in graph.node:
            node.name = _bare(node.name)
            node.input[:] = [new.get(name, name) for name in node.input]
            node.output[:] = [new.get(name, name) for name in node.output]
        for value in (*graph.input, *graph.output, *graph.initializer, *graph.value_info):
            value.name = new.get(value.name, value.name)


def _bare(name: str) -> str:
    for prefix, replacement in ((f"{WRAPPED}.", ""), (f"/{WRAPPED}/", "/")):
        if name.startswith(prefix) and len(name) > len(prefix):
            return replacement + name[len(prefix):]
    return name


def _declare(value: onnx.ValueInfoProto, shape: Sequence[int | str]) -> None:
    tensor_shape = value.type.tensor_type.shape
    tensor_shape.ClearField("dim")
    for size in shape:
        if isinstance(size, str):
            tensor_shape.dim.add().dim_param = size
        else:
            tensor_shape.dim.add().dim_value = size
