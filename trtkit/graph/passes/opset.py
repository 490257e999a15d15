"""A model of an old opset -> the same model at a newer one: operators that other passes and lowerings need.

LayerNormalization stands in opset 17, per-channel DequantizeLinear in 13. ONNX's own version converter does the work;
as every pass, it is checked numerically.
"""

from __future__ import annotations

import onnx_graphsurgeon as gs

from trtkit.errors import GraphError, SpecError
from trtkit.graph.opset import upgrade_opset
from trtkit.graph.rule import Pass, PassResult

__all__ = ["raise_opset"]


def raise_opset(argument: str) -> Pass:
    """Return the pass that converts a model of an older opset to `argument`; where ONNX cannot, it refuses.

    Args:
        argument: The opset, such as "17".

    Raises:
        SpecError: It is no positive number.
    """
    if not argument.isdecimal() or int(argument) < 1:
        raise SpecError(f"raise-opset takes an opset, got '{argument}'. Write raise-opset:17")
    wanted = int(argument)

    def apply(graph: gs.Graph) -> PassResult:
        before = int(graph.opset)
        if before >= wanted:
            return PassResult(0)
        try:
            converted = upgrade_opset(gs.export_onnx(graph, do_type_check=False), wanted)
        except GraphError as err:
            return PassResult(0, (str(err),))
        _become(graph, gs.import_onnx(converted))
        return PassResult(wanted - before)

    return Pass(f"raise-opset:{wanted}", f"Convert a model of an older opset to {wanted}", apply)


def _become(graph: gs.Graph, other: gs.Graph) -> None:
    """Make a graph what another one is, in place."""
    graph.nodes, graph.inputs, graph.outputs = other.nodes, other.inputs, other.outputs
    graph.opset, graph.ir_version, graph.import_domains = other.opset, other.ir_version, other.import_domains
