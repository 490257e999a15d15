"""An ONNX file -> a model to audit, even where its opset is too old for its Q/DQ nodes.

ONNX Runtime's quantizer writes a scale a channel into models of opset 11 and 12, where DequantizeLinear has no axis:
such a file is no valid ONNX, and yet TensorRT reads it.
"""

from __future__ import annotations

from pathlib import Path

import onnx

from trtkit.errors import GraphError
from trtkit.graph.model import load_model
from trtkit.graph.order import sort_nodes

__all__ = ["load_quantized"]


def load_quantized(path: Path) -> onnx.ModelProto:
    """Return the model in a file, with all external data inside and its nodes in topological order.

    Args:
        path: ONNX file; operators outside ONNX are taken.

    Raises:
        GraphError: It is no valid ONNX model, for another reason than that its Q/DQ nodes are too new for its opset.
    """
    try:
        return load_model(path, allow_custom=True)
    except GraphError as err:
        if not any(f"for operator {op}" in str(err) for op in ("QuantizeLinear", "DequantizeLinear")):
            raise
    model = onnx.load(str(path))
    sort_nodes(model.graph)
    return model
