"""Which constants of a graph are weights, and which are numbers that no gradient should move."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import onnx

from trtkit.compress.qat.operators import OPERATORS, Node

__all__ = ["host_constants", "trainable_constants"]

_FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)


def trainable_constants(nodes: Iterable[Node], constants: Mapping[str, onnx.TensorProto],
                        inputs: Iterable[str]) -> set[str]:
    """Return the names of the constants that training may change.

    These are the constant operands of convolutions, matrix products and normalizations (not the statistics), slopes of
    PRelu, tables that Gather reads, and vectors that scale or shift channels behind the first of these. Not scalars,
    masks and position tables, nor what prepares the input: mean and std before the first weight.

    Args:
        nodes: In topological order.
        constants: Initializers by name.
        inputs: Inputs of the graph.
    """
    trainable: set[str] = set()
    unweighted = set(inputs)
    for node in nodes:
        operator = OPERATORS.get(node.op_type)
        if operator is None:
            continue
        read = [(position, name) for position, name in enumerate(node.inputs) if name in constants]
        own = {name for position, name in read if position in operator.trained}
        if operator.affine and not unweighted.intersection(node.inputs):
            own |= {name for _, name in read if _is_vector(constants[name])}
        trainable |= {name for name in own if constants[name].data_type in _FLOATS}
        if not own and all(name in unweighted or name in constants or not name for name in node.inputs):
            unweighted.update(node.outputs)
    return trainable


def _is_vector(tensor: onnx.TensorProto) -> bool:
    return len([dim for dim in tensor.dims if dim > 1]) == 1


def host_constants(nodes: Sequence[Node], constants: Mapping[str, onnx.TensorProto]) -> set[str]:
    """Return the names of the constants that stay on the CPU: what is no float, or is only read as an option."""
    computed = {name for node in nodes for position, name in enumerate(node.inputs)
                if node.op_type not in OPERATORS or position not in OPERATORS[node.op_type].host}
    optional = {name for node in nodes for name in node.inputs} - computed
    return {name for name, tensor in constants.items() if tensor.data_type not in _FLOATS or name in optional}
