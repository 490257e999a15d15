"""An ONNX file -> a model that is known to be whole, and back; what goes in and out of it."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from trtkit.errors import GraphError
from trtkit.files import atomic_write
from trtkit.graph.content_hash import fingerprint
from trtkit.graph.external import load_external, split_weights, uses_external
from trtkit.graph.operators import check_operators
from trtkit.graph.opset import upgrade_opset
from trtkit.graph.order import sort_nodes
from trtkit.graph.shapes import infer_shapes, weight_bytes, without_weights
from trtkit.tensors import TensorSpec

__all__ = [
    "fingerprint",
    "infer_shapes",
    "load_model",
    "model_bytes",
    "model_inputs",
    "model_outputs",
    "save_model",
    "upgrade_opset",
]

logger = logging.getLogger(__name__)

_PROTOBUF_LIMIT = (2 << 30) - (16 << 20)
"""Bytes; a protobuf message must stay below 2 GiB, the graph itself included."""


def load_model(path: Path | str, *, allow_custom: bool = False) -> onnx.ModelProto:
    """Return the model in a file, with all external data inside and its nodes in topological order.

    Args:
        path: ONNX file.
        allow_custom: Let operators outside ONNX's own domains through; a runtime must bring them.

    Raises:
        GraphError: The file is missing, empty, truncated or no ONNX; its external data is missing, truncated or outside
            its folder; a node's operator is unknown; or onnx.checker finds the model invalid.
    """
    path = Path(path)
    model = _parse(path)
    try:
        check_operators(model, allow_custom=allow_custom)
        if uses_external(model):
            load_external(model, path.parent)
        moved = sort_nodes(model.graph)
    except GraphError as err:
        raise GraphError(f"'{path}': {err}") from err
    if moved:
        logger.info("Put %d nodes of '%s' into topological order", moved, path)
    try:
        onnx.checker.check_model(model if weight_bytes(model) < _PROTOBUF_LIMIT else without_weights(model))
    except (onnx.checker.ValidationError, RuntimeError, ValueError) as err:
        raise GraphError(f"'{path}' is not a valid ONNX model: {err}. Export it again") from err
    return model


def _parse(path: Path) -> onnx.ModelProto:
    try:
        data = path.read_bytes()
    except OSError as err:
        raise GraphError(f"'{path}' cannot be read: {err.strerror}. Name an ONNX file") from err
    if not data:
        raise GraphError(f"'{path}' is empty (0 bytes). Export or copy the model again")
    try:
        model = onnx.ModelProto.FromString(data)
    except DecodeError as err:
        raise GraphError(f"'{path}' ({len(data)} bytes) is no ONNX model, or a truncated one: {err}. "
                         "Export or copy the model again") from err
    missing = [what for what, there in (("no IR version", model.ir_version), ("no graph", model.HasField("graph")),
                                        ("no opset", model.opset_import), ("no outputs", model.graph.output))
               if not there]
    if missing:
        raise GraphError(f"'{path}' ({len(data)} bytes) is no ONNX model, or a truncated one: it has "
                         f"{', '.join(missing)}. Export or copy the model again")
    return model


def save_model(model: onnx.ModelProto, path: Path | str, *, external_above: int = _PROTOBUF_LIMIT) -> None:
    """Write a model, whole or not at all; large weights go to a second file beside it.

    The data file is named for its content and is in place before the model that refers to it; data files of the model
    that stood there before are removed last. So at every moment `path` is a complete model, the old or the new one.

    Args:
        model: A model with all its data inside.
        path: ONNX file to write.
        external_above: Size of weights, in bytes, above which they go to `path`.<hash>.data.

    Raises:
        SpecError: It cannot be written; what was there before is untouched.
    """
    path = Path(path)
    stale = set(path.parent.glob(f"{path.name}.*.data"))
    if weight_bytes(model) > external_above:
        data = path.with_name(f"{path.name}.{fingerprint(model)[:16]}.data")
        model = split_weights(model, data)
        stale.discard(data)
    atomic_write(path, model.SerializeToString())
    for old in stale:
        old.unlink(missing_ok=True)


def model_bytes(model: onnx.ModelProto) -> bytes:
    """Return a model as one ONNX file's bytes.

    Raises:
        GraphError: It is too large for one protobuf message.
    """
    size = weight_bytes(model)
    if size >= _PROTOBUF_LIMIT:
        raise GraphError(f"Model has {size / 1e9:.1f} GB of weights; ONNX in memory ends at 2 GiB. "
                         "Save it to a file with save_model, which keeps the weights beside it")
    data: bytes = model.SerializeToString()
    return data


def model_inputs(model: onnx.ModelProto) -> tuple[TensorSpec, ...]:
    """Return what must be fed: graph inputs that are no initializers.

    Raises:
        GraphError: One is no tensor, or its type or rank is not known.
    """
    constants = {tensor.name for tensor in model.graph.initializer}
    return _specs(info for info in model.graph.input if info.name not in constants)


def model_outputs(model: onnx.ModelProto) -> tuple[TensorSpec, ...]:
    """Return the graph outputs, their shapes inferred where the model does not state them.

    Raises:
        GraphError: One is no tensor, or its type or rank is not known.
    """
    stated = all(info.type.tensor_type.HasField("shape") for info in model.graph.output)
    return _specs((model if stated else infer_shapes(model)).graph.output)


def _specs(infos: Iterable[onnx.ValueInfoProto]) -> tuple[TensorSpec, ...]:
    return tuple(_spec(info) for info in infos)


def _spec(info: onnx.ValueInfoProto) -> TensorSpec:
    tensor = info.type.tensor_type
    if not tensor.elem_type or not tensor.HasField("shape"):
        raise GraphError(f"Tensor '{info.name}' has no known type and rank ({info.type.WhichOneof('value')}). "
                         "Export the model with typed inputs and outputs that are tensors")
    shape = tuple(_dim(dim, f"{info.name}_dim{axis}") for axis, dim in enumerate(tensor.shape.dim))
    return TensorSpec(info.name, str(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)), shape)


def _dim(dim: onnx.TensorShapeProto.Dimension, unnamed: str) -> int | str:
    """Return a size or a name; -1, '?' and nothing at all are how older converters write a dynamic one."""
    if dim.HasField("dim_value") and dim.dim_value >= 0:
        return int(dim.dim_value)
    return unnamed if dim.dim_param in ("", "?") else str(dim.dim_param)
