"""FP32 graph + table -> graph with FP8 (E4M3) Q/DQ before convolutions and products; the rest becomes FP16 after.

    x -> Conv(w, b)   becomes   DQ(Q(x; amax_x / 448)) -> Conv(DQ(w_fp8; amax_w / 448 a channel), b)

FP8's step grows with the value, so the largest value sets the scale: cutting it off would gain nothing for the small
ones (Micikevicius et al., FP8 Formats for Deep Learning, 2022, section 3.3). What stays FP16, because TensorRT has no,
or no faster, FP8 kernel for it (the limits are those of NVIDIA ModelOpt 0.47): grouped convolutions, fewer than 16
channels, kernels of more than 32 elements, transposed convolutions; and the products inside attention.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto

from trtkit.errors import CalibrationError
from trtkit.findings import some_of
from trtkit.precision import NodeSelector
from trtkit.quant.floats.mixed import half_scale
from trtkit.quant.index import GraphIndex, as_tensor, attribute, hide_initializers, node_name, store_nodes
from trtkit.quant.placement import weight_axis
from trtkit.quant.scales.fp8 import LARGEST, encode_e4m3
from trtkit.ranges import CalibrationTable
from trtkit.tensors import Array

__all__ = ["insert_fp8"]

_NARROWEST = 16
_LARGEST_KERNEL = 32
_NOTHING = NodeSelector()


def insert_fp8(model: onnx.ModelProto, table: CalibrationTable, *, smallest: int = 0,
               keep: NodeSelector = _NOTHING) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """Return a copy with FP8 Q/DQ, still float32 otherwise, and notes on what was left and why.

    Args:
        model: FP32, opset 19 or later, weights as initializers.
        table: Calibrated on this very model.
        smallest: Weights of fewer elements stay.
        keep: Nodes that are not quantized.

    Raises:
        CalibrationError: A tensor to be quantized is not in the table.
        SpecError: A keep selector matches nothing.
    """
    made = onnx.ModelProto()
    made.CopyFrom(model)
    hide_initializers(made)
    index = GraphIndex(made)
    kept = keep.select((node_name(node), node.op_type) for node in index.nodes)
    insertion = _Insertion(made.graph, index, table)
    left: dict[str, list[str]] = {}
    for node in index.nodes:
        if node.op_type in ("Conv", "ConvTranspose", "Gemm", "MatMul"):
            reason = "asked for" if node_name(node) in kept else _unfit(index, node, smallest)
            if reason:
                left.setdefault(reason, []).append(node_name(node))
            else:
                insertion.quantize(node)
    insertion.write()
    return made, (f"{len(insertion.weights)} weights and {len(insertion.activations)} activations in FP8",
                  *(f"not in FP8, {reason}: {some_of(names)}" for reason, names in left.items()))


def _unfit(index: GraphIndex, node: Any, smallest: int) -> str:
    weight = index.initializers.get(node.input[1])
    if weight is None or node.input[0] in index.initializers:
        return "a product of two activations or constants"
    if node.op_type == "ConvTranspose":
        return "TensorRT has no FP8 kernel for ConvTranspose"
    if attribute(node, "group", 1) != 1:
        return "a grouped convolution"
    if len(weight.dims) < 2 or min(weight.dims[:2]) < _NARROWEST:
        return f"fewer than {_NARROWEST} channels"
    if node.op_type == "Conv" and int(np.prod(weight.dims[2:])) > _LARGEST_KERNEL:
        return f"a kernel of more than {_LARGEST_KERNEL} elements"
    if node.op_type in ("MatMul", "Gemm") and len(weight.dims) != 2:
        return "a weight that is no matrix"
    if int(np.prod(weight.dims)) < smallest:
        return f"fewer than {smallest} weights"
    return ""


class _Insertion:
    """Adds the pairs; `write` puts the nodes in order."""

    def __init__(self, graph: onnx.GraphProto, index: GraphIndex, table: CalibrationTable) -> None:
        self.graph, self.index, self.table = graph, index, table
        self.before: dict[int, list[Any]] = {}
        self.activations: dict[str, str] = {}
        self.weights: dict[tuple[str, int], str] = {}

    def quantize(self, node: Any) -> None:
        """Let a node read FP8 through DequantizeLinear."""
        made = self.before.setdefault(id(node), [])
        source, weight = node.input[0], node.input[1]
        if source not in self.activations:
            self.activations[source] = self._activation(source, made)
        value = self.index.constant(weight)
        assert value is not None
        axis = weight_axis(node, 1, value.ndim)
        assert axis is not None
        if (weight, axis) not in self.weights:
            self.weights[weight, axis] = self._weight(weight, value, axis, made)
        node.input[0], node.input[1] = self.activations[source], self.weights[weight, axis]

    def _activation(self, name: str, made: list[Any]) -> str:
        histogram = self.table.tensors.get(name)
        if histogram is None or not histogram.has_range:
            raise CalibrationError(f"The calibration table has no values for tensor '{name}', which is to be "
                                   "quantized. Calibrate this very model: trtkit calibrate MODEL --data DIR -o TABLE")
        scale = self._store(f"{name}_scale", as_tensor("", _scale(np.asarray(histogram.amax, np.float32))))
        zero = self._store(f"{name}_zero_point", _fp8(np.zeros((), np.uint8)))
        codes, result = self.index.new_name(f"{name}_fp8"), self.index.new_name(f"{name}_dequantized")
        made += [onnx.helper.make_node("QuantizeLinear", [name, scale, zero], [codes], name=f"{codes}_QuantizeLinear"),
                 onnx.helper.make_node("DequantizeLinear", [codes, scale, zero], [result],
                                       name=f"{result}_DequantizeLinear")]
        return result

    def _weight(self, name: str, value: Array, axis: int, made: list[Any]) -> str:
        others = tuple(position for position in range(value.ndim) if position != axis)
        scale = _scale(np.abs(value).max(axis=others))
        along = scale.reshape([-1 if position == axis else 1 for position in range(value.ndim)])
        inputs = [self._store(f"{name}_fp8", _fp8(encode_e4m3(value / along))),
                  self._store(f"{name}_scale", as_tensor("", scale)),
                  self._store(f"{name}_zero_point", _fp8(np.zeros(scale.shape, np.uint8)))]
        result = self.index.new_name(f"{name}_dequantized")
        made.append(onnx.helper.make_node("DequantizeLinear", inputs, [result], name=f"{result}_DequantizeLinear",
                                          axis=axis))
        return result

    def _store(self, wanted: str, tensor: Any) -> str:
        tensor.name = self.index.new_name(wanted)
        self.graph.initializer.append(tensor)
        return str(tensor.name)

    def write(self) -> None:
        """Put every pair before its first reader and drop the weights that nothing reads any more."""
        nodes = [each for node in self.index.nodes for each in (*self.before.get(id(node), ()), node)]
        store_nodes(self.graph, self.index, nodes, list(self.graph.initializer))


def _scale(amax: Array) -> Array:
    """Return amax / 448 as a float16 number, 1 where all is 0."""
    return np.where(amax > 0, half_scale(np.maximum(amax / LARGEST, np.finfo(np.float32).tiny)),
                    1).astype(np.float32)


def _fp8(codes: Array) -> Any:
    return TensorProto(data_type=TensorProto.FLOAT8E4M3FN, dims=codes.shape, raw_data=codes.tobytes())
