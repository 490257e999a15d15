"""Shapes and types of all tensors of a model; a copy of a model without the bulk of its weights."""

from __future__ import annotations

import onnx
from google.protobuf.message import Message  # type: ignore[import-untyped]

from trtkit.errors import GraphError

__all__ = ["infer_shapes", "name_dynamic_dims", "weight_bytes", "without_initializers", "without_weights"]

_BULK_BYTES = 1024
"""Floating-point initializers above this size carry no shape information and are left out of an inference."""

_FLOATS = {onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16, onnx.TensorProto.DOUBLE}


def infer_shapes(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy of the model that knows the type and shape of each tensor as far as ONNX can tell.

    Args:
        model: Any model, of any size; it stays as it is.

    Raises:
        GraphError: ONNX's shape inference fails (its own words are kept).
    """
    slim = without_weights(model)
    try:
        inferred = onnx.shape_inference.infer_shapes(slim, data_prop=True)
    except (onnx.shape_inference.InferenceError, RuntimeError, ValueError) as err:
        raise GraphError(f"Shape inference failed: {err}. Check the model with onnx.checker") from err
    del inferred.graph.input[len(model.graph.input):]
    del inferred.graph.initializer[:]
    inferred.graph.initializer.extend(model.graph.initializer)
    return inferred


def without_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy in which large floating-point initializers are further graph inputs, behind the real ones."""
    slim = onnx.ModelProto()
    _copy_except(model, slim, "graph")
    _copy_except(model.graph, slim.graph, "initializer")
    inputs = {tensor.name for tensor in model.graph.input}
    for tensor in model.graph.initializer:
        if tensor.data_type not in _FLOATS or _size(tensor) <= _BULK_BYTES:
            slim.graph.initializer.append(tensor)
        elif tensor.name not in inputs:
            slim.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    return slim


def without_initializers(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy of everything but the main graph's initializers."""
    bare = onnx.ModelProto()
    _copy_except(model, bare, "graph")
    _copy_except(model.graph, bare.graph, "initializer")
    return bare


def name_dynamic_dims(model: onnx.ModelProto) -> None:
    """Give each dimension of an input that is dynamic without a name of its own one, in place.

    Older converters write -1, '?', or nothing; '?' twice would mean two equal sizes.
    """
    for info in model.graph.input:
        for axis, dim in enumerate(info.type.tensor_type.shape.dim):
            if dim.dim_value < 0 or dim.dim_param == "?" or not dim.WhichOneof("value"):
                dim.dim_param = f"{info.name}_dim{axis}"


def weight_bytes(model: onnx.ModelProto) -> int:
    """Return the size of the main graph's initializers in bytes."""
    return sum(_size(tensor) for tensor in model.graph.initializer)


def _size(tensor: onnx.TensorProto) -> int:
    return len(tensor.raw_data) if tensor.HasField("raw_data") else tensor.ByteSize()


def _copy_except(source: Message, target: Message, skipped: str) -> None:
    for field, value in source.ListFields():
        if field.name == skipped:
            continue
        if hasattr(value, "MergeFrom"):
            getattr(target, field.name).MergeFrom(value)
        else:
            setattr(target, field.name, value)
