"""A model of an old opset -> the same model at a newer one; Constant nodes -> initializers."""

from __future__ import annotations

import numpy as np
import onnx

from trtkit.errors import GraphError
from trtkit.graph.order import each_graph
from trtkit.graph.shapes import without_weights

__all__ = ["constants_to_initializers", "model_opset", "upgrade_opset"]

_FIRST_IR_WITH_CONSTANTS = 4
"""Up to IR version 3 initializers had to be listed among the graph's inputs; the converter looks for them there."""


def model_opset(model: onnx.ModelProto) -> int:
    """Return the version of ONNX's own operators that a model uses; 1 when it states none."""
    return max((int(entry.version) for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=1)


def upgrade_opset(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    """Return a copy at `opset` at least, Constant nodes turned into initializers.

    Args:
        model: Any model; one that is newer keeps its opset.
        opset: ONNX opset, such as 17.

    Raises:
        GraphError: ONNX's version converter cannot convert it (its own words are kept).
    """
    if model_opset(model) >= opset:
        converted = onnx.ModelProto()
        converted.CopyFrom(model)
    else:
        try:
            slim = without_weights(model)
            slim.ir_version = max(slim.ir_version, _FIRST_IR_WITH_CONSTANTS)
            converted = onnx.version_converter.convert_version(slim, opset)
        except (onnx.version_converter.ConvertError, RuntimeError, ValueError) as err:
            raise GraphError(f"Model at opset {model_opset(model)} cannot be converted to {opset}: {err}. "
                             f"Export it at opset {opset}") from err
        del converted.metadata_props[:]  # some versions of the converter keep them, some do not
        _restore_weights(converted.graph, model.graph)
        converted.metadata_props.extend(model.metadata_props)
    constants_to_initializers(converted)
    return converted


def _restore_weights(graph: onnx.GraphProto, original: onnx.GraphProto) -> None:
    """Put back the weights that the converter did not need to see, and take away the inputs that stood for them."""
    inputs = {info.name for info in original.input}
    for index in reversed([i for i, info in enumerate(graph.input) if info.name not in inputs]):
        del graph.input[index]
    there = {tensor.name for tensor in graph.initializer}
    graph.initializer.extend(tensor for tensor in original.initializer if tensor.name not in there)


def constants_to_initializers(model: onnx.ModelProto) -> int:
    """Turn Constant nodes into initializers of their graph, in place; return how many."""
    count = 0
    for graph in each_graph(model.graph):
        outputs = {output.name for output in graph.output}
        for index in reversed(range(len(graph.node))):
            node = graph.node[index]
            if node.op_type != "Constant" or node.domain not in ("", "ai.onnx") or node.output[0] in outputs:
                continue
            tensor = _value(node)
            if tensor is not None:
                tensor.name = node.output[0]
                graph.initializer.append(tensor)
                del graph.node[index]
                count += 1
    return count


def _value(node: onnx.NodeProto) -> onnx.TensorProto | None:
    attribute = node.attribute[0]
    if attribute.ref_attr_name:
        return None
    if attribute.name == "value":
        tensor = onnx.TensorProto()
        tensor.CopyFrom(attribute.t)
        return tensor
    dtypes = {"value_float": np.float32, "value_floats": np.float32, "value_int": np.int64, "value_ints": np.int64}
    if attribute.name not in dtypes:
        return None
    plain = onnx.helper.get_attribute_value(attribute)
    return onnx.numpy_helper.from_array(np.array(plain, dtypes[attribute.name]))
