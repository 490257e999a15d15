"""Weights that were quantized anew -> the integers that they had, where the target takes those as well.

Lifted to float and quantized again, a weight may land on a slightly other grid: rounded twice. A symmetric INT8 grid,
with one scale or with scales along the output channels, needs no second rounding.
"""

from __future__ import annotations

import numpy as np
import onnx

from trtkit.quant.audit.lifting import Lifted
from trtkit.quant.budget.macs import WEIGHTED_OPS
from trtkit.quant.index import GraphIndex, as_tensor
from trtkit.quant.placement import weight_axis

__all__ = ["keep_integers"]


def keep_integers(quantized: onnx.ModelProto, lifted: Lifted) -> int:
    """Put the integers that weights had back where the target takes them, in place; return how many.

    Weights of a symmetric INT8 grid, per tensor or on the right axis, lose nothing then.
    """
    index, source = GraphIndex(quantized), GraphIndex(lifted.model)
    count = 0
    for node in index.nodes:
        step = lifted.reads.get((node.output[0], 1)) if node.output else None
        weight = index.producer.get(node.input[1]) if len(node.input) > 1 else None
        if node.op_type not in WEIGHTED_OPS or step is None or weight is None or weight.op_type != "DequantizeLinear":
            continue
        before = index.constant(weight.input[0])
        if before is None or not step.is_8bit or step.dtype != "int8" or not step.symmetric:
            continue
        assert step.scale is not None
        axis = weight_axis(node, 1, before.ndim)
        if step.axis is not None and (axis is None or step.axis % before.ndim != axis):
            continue
        if sum(reader.op_type in WEIGHTED_OPS for reader, _ in index.readers[weight.output[0]]) > 1:
            continue
        scale = step.scale if axis is None else np.broadcast_to(step.scale, (before.shape[axis],))
        made = source.producer.get(node.output[0])
        value = None if made is None else source.constant(made.input[1])
        if value is None or value.shape != before.shape:
            continue
        integers = step.quantize(value)
        for name, array in ((weight.input[0], integers), (weight.input[1], np.asarray(scale, np.float32))):
            index.initializers[name].CopyFrom(as_tensor(name, array))
        count += 1
    return count
