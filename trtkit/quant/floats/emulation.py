"""BF16-typed graph -> the same in float32 with every tensor rounded to BF16: what foretells its accuracy on a CPU.

ONNX Runtime's CPU kernels know BF16 in Cast alone, so y = Op(x) becomes y = Cast<FLOAT>(Cast<BFLOAT16>(Op(x))) over
weights that are rounded already. A product is summed in float32 and rounded once, as tensor cores do.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto

from trtkit.graph.model import infer_shapes
from trtkit.quant.floats.half import BF16
from trtkit.quant.index import GraphIndex, as_tensor

__all__ = ["emulate_bf16"]


def emulate_bf16(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a float32 model that computes what a BF16-typed one does.

    Args:
        model: From trtkit.quant.floats.typed.to_half with BF16: its inputs and outputs are not BF16.
    """
    emulated = onnx.ModelProto()
    emulated.CopyFrom(model)
    graph, index = emulated.graph, GraphIndex(emulated)
    inferred = infer_shapes(model).graph.value_info
    rounded = {info.name for info in inferred if info.type.tensor_type.elem_type == BF16.code}
    for tensor in graph.initializer:
        if tensor.data_type == BF16.code:
            bits = np.frombuffer(tensor.raw_data, "<u2").astype(np.uint32) << np.uint32(16)
            tensor.CopyFrom(as_tensor(tensor.name, bits.view(np.float32).reshape(tensor.dims)))
    nodes: list[onnx.NodeProto] = []
    for source in graph.node:
        node = onnx.NodeProto.FromString(source.SerializeToString())
        nodes.append(node)
        if node.op_type == "Cast":
            for item in node.attribute:
                if item.name == "to" and item.i == BF16.code:
                    item.i = TensorProto.FLOAT
        for position, name in enumerate(node.output):
            if name in rounded:
                exact, bits_name = index.new_name(f"{name}_exact"), index.new_name(f"{name}_bits")
                node.output[position] = exact
                nodes += [onnx.helper.make_node("Cast", [exact], [bits_name], name=bits_name, to=BF16.code),
                          onnx.helper.make_node("Cast", [bits_name], [name], name=f"{name}_rounded",
                                                to=TensorProto.FLOAT)]
    del graph.node[:], graph.value_info[:]
    graph.node.extend(nodes)
    return emulated
