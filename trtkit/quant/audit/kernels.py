"""What ONNX Runtime really runs: the model is loaded, and the optimized graph read back."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnxruntime

from trtkit.graph.model import model_bytes
from trtkit.runtime.ort import AS_WRITTEN

__all__ = ["INTEGER_KERNELS", "Kernels", "read_kernels"]

INTEGER_KERNELS = frozenset({
    "QLinearConv", "QGemm", "QLinearMatMul", "MatMulIntegerToFloat", "DynamicQuantizeMatMul", "MatMulInteger",
    "ConvInteger"})
"""Kernels of weighted layers that compute in integers."""

_LAYOUT_SUFFIX = re.compile(r"(_token_\d+|_nchwc)+$")
_FATAL_ONLY = 4


@dataclass(frozen=True)
class Kernels:
    """What became of a model in ONNX Runtime.

    Attributes:
        op_types: Node name as the model has it -> kernel that it became; nodes that were fused away are absent.
        boundary: Names of the Q and DQ nodes that run as kernels of their own, those at inputs and outputs aside.
        refusal: ONNX Runtime's words when it does not load the model; "" otherwise.
    """

    op_types: Mapping[str, str]
    boundary: tuple[str, ...] = ()
    refusal: str = ""


def read_kernels(model: onnx.ModelProto) -> Kernels:
    """Load a model in ONNX Runtime as a session would, and return what it became.

    Args:
        model: Its nodes have names (lifting.prepare). One with the metadata entry trtkit.as_written runs unoptimized,
            as OrtSession runs it.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _FATAL_ONLY
    if any(entry.key == AS_WRITTEN for entry in model.metadata_props):
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "optimized.onnx"
        options.optimized_model_filepath = str(path)
        try:
            onnxruntime.InferenceSession(model_bytes(model), options, providers=["CPUExecutionProvider"])
        except Exception as err:  # noqa: BLE001 - ONNX Runtime's exceptions share no base but Exception
            return Kernels({}, refusal=str(err).strip())
        graph = onnx.load(path).graph
    ends = {info.name for info in (*graph.input, *graph.output)}
    constants = {tensor.name for tensor in graph.initializer}
    boundary = tuple(_plain(node.name) for node in graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")
                     and not ends & {node.input[0], node.output[0]} and node.input[0] not in constants)
    return Kernels({_plain(node.name): node.op_type for node in graph.node}, boundary)


def _plain(name: str) -> str:
    return _LAYOUT_SUFFIX.sub("", name)
