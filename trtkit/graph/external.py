"""Weights outside the model file: read only from its own folder, written so that model and weights always agree."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath

import onnx

from trtkit.errors import GraphError
from trtkit.files import atomic_path
from trtkit.graph.order import each_graph
from trtkit.graph.shapes import without_weights

__all__ = ["load_external", "split_weights", "uses_external"]

_ALIGNMENT = 4096
"""Bytes; tensors start at multiples, so that a runtime can map them into memory."""


def uses_external(model: onnx.ModelProto) -> bool:
    """Whether any tensor of the model lies in a file of its own."""
    return any(True for _ in _external_tensors(model))


def load_external(model: onnx.ModelProto, folder: Path) -> None:
    """Read all external tensors into the model, in place.

    Raises:
        GraphError: A file is missing, too short, or its path leads out of `folder`.
    """
    for tensor in _external_tensors(model):
        _check(tensor, folder)
    try:
        onnx.load_external_data_for_model(model, str(folder))
    except (OSError, ValueError, onnx.checker.ValidationError) as err:
        raise GraphError(f"External data in '{folder}' cannot be read: {err}. Copy the data files again") from err


def _external_tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    graphs = list(each_graph(model.graph))
    for graph in graphs:
        tensors = [*graph.initializer, *(a.t for node in graph.node for a in node.attribute if a.HasField("t"))]
        for sparse in graph.sparse_initializer:
            tensors += [sparse.values, sparse.indices]
        yield from (t for t in tensors if t.data_location == onnx.TensorProto.EXTERNAL)


def _check(tensor: onnx.TensorProto, folder: Path) -> None:
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    inside = (location and not PurePosixPath(location).is_absolute() and not PureWindowsPath(location).is_absolute()
              and (folder / location).resolve().is_relative_to(folder.resolve()))
    if not inside:
        raise GraphError(f"Tensor '{tensor.name}' has its data at '{location}', outside the model's folder '{folder}'. "
                         "Keep data files beside the model, with relative paths")
    path = folder / location
    if not path.is_file():
        raise GraphError(f"External data file '{path}' of tensor '{tensor.name}' is missing. "
                         "Copy it from where the model was exported")
    try:
        end = int(entries.get("offset", 0)) + int(entries.get("length", 0))
    except ValueError as err:
        raise GraphError(f"Tensor '{tensor.name}' has no usable offset and length in {entries}. "
                         "The model is damaged; export it again") from err
    if path.stat().st_size < end:
        raise GraphError(f"External data file '{path}' has {path.stat().st_size} bytes; tensor '{tensor.name}' needs "
                         f"{end}. It is truncated; copy it again")


def split_weights(model: onnx.ModelProto, path: Path) -> onnx.ModelProto:
    """Write the large weights to `path` and return a model that refers to them there.

    Args:
        model: A model with all its data inside; it stays as it is.
        path: Data file, in the folder in which the returned model will lie.

    Raises:
        SpecError: The file cannot be written.
    """
    slim = without_weights(model)
    del slim.graph.input[len(model.graph.input):]
    inline = {tensor.name for tensor in slim.graph.initializer}
    with atomic_path(path) as temporary, open(temporary, "wb") as stream:
        for tensor in model.graph.initializer:
            if tensor.name in inline:
                continue
            stream.write(bytes(-stream.tell() % _ALIGNMENT))
            data = tensor.raw_data if tensor.HasField("raw_data") else onnx.numpy_helper.to_array(tensor).tobytes()
            outside = onnx.TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
            outside.data_location = onnx.TensorProto.EXTERNAL
            for key, value in (("location", path.name), ("offset", stream.tell()), ("length", len(data))):
                outside.external_data.add(key=key, value=str(value))
            slim.graph.initializer.append(outside)
            stream.write(data)
    return slim
