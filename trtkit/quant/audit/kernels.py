"""What ONNX Runtime really runs: the model is loaded, and the optimized graph read back."""

from __future__ import annotations

import platform
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

from trtkit.graph.model import model_bytes
from trtkit.quant.audit.qoperators import QOPERATORS
from trtkit.quant.index import GraphIndex, as_tensor
from trtkit.runtime.ort import AS_WRITTEN

__all__ = ["INTEGER_KERNELS", "Kernels", "read_kernels"]

INTEGER_KERNELS = frozenset({
    "QLinearConv", "QGemm", "QLinearMatMul", "MatMulIntegerToFloat", "DynamicQuantizeMatMul", "MatMulInteger",
    "ConvInteger"})
"""Kernels of weighted layers that compute in integers."""

_LAYOUT_SUFFIX = re.compile(r"(_token_\d+|_nchwc|/duplicated)+$")
_FATAL_ONLY = 4


@dataclass(frozen=True)
class Kernels:
    """What became of a model in ONNX Runtime.

    Attributes:
        op_types: Node name as the model has it -> kernel that it became; nodes that were fused away are absent.
        boundary: Names of the model's Q and DQ nodes that run as kernels of their own, those at inputs and outputs
            aside.
        refusal: ONNX Runtime's words when it does not load the model; "" otherwise.
    """

    op_types: Mapping[str, str]
    boundary: tuple[str, ...] = ()
    refusal: str = ""


def read_kernels(model: onnx.ModelProto, arch: str = "") -> Kernels:
    """Load a model in ONNX Runtime as a session would, and return what it became.

    Args:
        arch: Machine of the target. ONNX Runtime fuses INT8 activations into integer kernels on Arm alone; elsewhere
            the model is loaded with UINT8 ones in their place to tell what Arm will do.
        model: Its nodes have names (lifting.prepare). One with the metadata entry trtkit.as_written runs unoptimized,
            as OrtSession runs it.
    """
    if arch == "aarch64" != platform.machine():
        model = _unsigned(model)
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
    known = {node.name for node in model.graph.node}
    boundary = (_plain(node.name) for node in graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")
                and not ends & {node.input[0], node.output[0]} and node.input[0] not in constants)
    return Kernels({_plain(node.name): node.op_type for node in graph.node},
                   tuple(name for name in dict.fromkeys(boundary) if name in known))


def _unsigned(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy whose INT8 activations between Q and DQ are UINT8: the same values, q + 128 and z + 128."""
    shifted = onnx.ModelProto()
    shifted.CopyFrom(model)
    index = GraphIndex(shifted)
    moved: dict[str, str] = {}
    for node in index.nodes:
        if node.op_type in QOPERATORS:
            return model
        zero = node.input[2] if node.op_type in ("QuantizeLinear", "DequantizeLinear") and len(node.input) > 2 else ""
        stored = index.constant(zero)
        source = index.producer[node.input[0]].input[0] if node.op_type == "DequantizeLinear" \
            and node.input[0] in index.producer else node.input[0]
        if stored is None or stored.dtype != np.int8 or {source, node.input[0]} & index.initializers.keys():
            continue
        if zero not in moved:
            moved[zero] = index.new_name(f"{zero}_uint8")
            shifted.graph.initializer.append(as_tensor(moved[zero], (stored.astype(np.int16) + 128).astype(np.uint8)))
        node.input[2] = moved[zero]
    return shifted


def _plain(name: str) -> str:
    return _LAYOUT_SUFFIX.sub("", name)
