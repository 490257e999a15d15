"""Convolution on an image's 3 channels -> the same on 4, so that ONNX Runtime takes its fast integer kernel.

    DQ(Q(x)) -> Conv(DQ(w))     becomes     DQ(Pad(Q(x))) -> Conv(DQ([w, 0]))

MLAS convolves integers directly (MlasConvSym) where the number of input channels is a multiple of 4, and copies every
window together where it is not. The fourth channel holds the zero point, that is 0, and its weights are 0: the results
are equal to the bit. Measured on a Xeon with AVX512-VNNI: the first layer of EfficientNet-Lite0 takes half the time,
the whole network 5 % less, ResNet-50 4 % less.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx

from trtkit.quant.index import GraphIndex, as_tensor, attribute

__all__ = ["pad_narrow_inputs"]


def pad_narrow_inputs(model: onnx.ModelProto, channels: int) -> int:
    """Give every quantized convolution of fewer input channels `channels` of them, in place.

    Args:
        model: With Q/DQ, opset 13 or later.
        channels: Smallest number of input channels, such as 4.

    Returns:
        How many convolutions were changed: those with a kernel of more than one element and one group, whose quantized
        input and weight nothing else reads.
    """
    index = GraphIndex(model)
    changed = 0
    for node in index.nodes:
        if node.op_type == "Conv" and attribute(node, "group", 1) == 1:
            changed += _pad(model.graph, index, node, channels)
    return changed


def _pad(graph: onnx.GraphProto, index: GraphIndex, conv: Any, channels: int) -> bool:
    data, weight = _own_dequantize(index, conv.input[0]), _own_dequantize(index, conv.input[1])
    if data is None or weight is None or index.only_reader(weight.input[0]) is None:
        return False
    quantize, values = index.producer.get(data.input[0]), index.constant(weight.input[0])
    if quantize is None or quantize.op_type != "QuantizeLinear" or index.only_reader(data.input[0]) is None:
        return False
    if values is None or values.shape[1] >= channels or values[0, 0].size == 1:
        return False
    missing, spatial = channels - values.shape[1], values.ndim - 2
    stored = index.initializers[weight.input[0]]
    stored.CopyFrom(as_tensor(stored.name, np.pad(values, ((0, 0), (0, missing), *((0, 0),) * spatial))))
    ends = np.array([0] * (2 + spatial) + [0, missing] + [0] * spatial, np.int64)
    sizes = as_tensor(index.new_name(f"{data.input[0]}_pads"), ends)
    graph.initializer.append(sizes)
    padded = index.new_name(f"{data.input[0]}_padded")
    pad = onnx.helper.make_node("Pad", [data.input[0], sizes.name, quantize.input[2]], [padded], name=padded)
    data.input[0] = padded
    graph.node.insert(list(graph.node).index(quantize) + 1, pad)
    return True


def _own_dequantize(index: GraphIndex, name: str) -> Any | None:
    """Return the DequantizeLinear that makes a tensor which one node alone reads, or None."""
    node = index.producer.get(name)
    if node is None or node.op_type != "DequantizeLinear" or index.only_reader(name) is None:
        return None
    return node
