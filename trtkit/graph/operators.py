"""Which operators of a model nobody knows: checked against ONNX's own schemas and the model's functions."""

from __future__ import annotations

import onnx

from trtkit.errors import GraphError
from trtkit.graph.order import each_graph

__all__ = ["check_operators", "custom_operators"]

_STANDARD = ("", "ai.onnx", "ai.onnx.ml")


def check_operators(model: onnx.ModelProto, *, allow_custom: bool) -> None:
    """Raise GraphError when a node's operator is in no schema.

    Args:
        model: The model.
        allow_custom: Let operators of other domains than ONNX's own through.
    """
    versions = _versions(model)
    for node in _nodes(model):
        if _domain(node) in _STANDARD and not _is_known(node, versions) and not _is_function(node, model):
            label = f" of domain '{node.domain}'" if node.domain else ""
            raise GraphError(f"Node '{node.name}' has the unknown operator '{node.op_type}'{label} (opset "
                             f"{versions.get(_domain(node), 'not declared')}), making {list(node.output)}. Export with "
                             "operators of ONNX, or put it into a domain of its own and allow custom operators")
    custom = custom_operators(model)
    if custom and not allow_custom:
        raise GraphError(f"Model uses operators outside ONNX: {', '.join(custom)}. Its runtime must bring them as "
                         "plugins; load it with allow_custom=True (--allow-custom) if that is meant")


def custom_operators(model: onnx.ModelProto) -> tuple[str, ...]:
    """Return "domain::Operator" for each operator outside ONNX that the model does not define itself."""
    return tuple(sorted({f"{node.domain}::{node.op_type}" for node in _nodes(model)
                         if _domain(node) not in _STANDARD and not _is_function(node, model)}))


def _nodes(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    nodes = [node for graph in each_graph(model.graph) for node in graph.node]
    return nodes + [node for function in model.functions for node in function.node]


def _versions(model: onnx.ModelProto) -> dict[str, int]:
    return {"" if entry.domain == "ai.onnx" else entry.domain: entry.version for entry in model.opset_import}


def _domain(node: onnx.NodeProto) -> str:
    return "" if node.domain == "ai.onnx" else str(node.domain)


def _is_known(node: onnx.NodeProto, versions: dict[str, int]) -> bool:
    domain = _domain(node)
    return domain in versions and bool(onnx.defs.has(node.op_type, versions[domain], domain))


def _is_function(node: onnx.NodeProto, model: onnx.ModelProto) -> bool:
    return any(f.name == node.op_type and f.domain == node.domain for f in model.functions)
