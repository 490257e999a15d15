"""A model -> a short hash of what it computes and what its tensors are called."""

from __future__ import annotations

import hashlib

import onnx

__all__ = ["fingerprint"]


def fingerprint(model: onnx.ModelProto) -> str:
    """Return a hash of graph and weights, 32 hexadecimal digits.

    It changes with operators, attributes, weights, opset and tensor names (calibration tables speak of tensors by
    name). It does not change with node names, node order, doc strings, metadata, the producer, inferred shapes of
    inner tensors, nor with the way in which a tensor is stored.
    """
    digest = hashlib.sha256()
    for domain, version in sorted({(entry.domain, entry.version) for entry in model.opset_import}):
        digest.update(f"{domain}:{version};".encode())
    digest.update(_graph(model.graph))
    for function in sorted(function.SerializeToString(deterministic=True) for function in model.functions):
        digest.update(_bytes(function))
    return digest.hexdigest()[:32]


def _graph(graph: onnx.GraphProto) -> bytes:
    parts = [repr([_interface(info) for info in graph.input]).encode(),
             repr([_interface(info) for info in graph.output]).encode()]
    parts += sorted(tensor.name.encode() + _tensor(tensor) for tensor in graph.initializer)
    parts += sorted(tensor.SerializeToString(deterministic=True) for tensor in graph.sparse_initializer)
    parts += sorted(_node(node) for node in graph.node)
    digest = hashlib.sha256()
    for part in parts:
        digest.update(_bytes(part))
    return digest.digest()


def _interface(info: onnx.ValueInfoProto) -> tuple[str, bytes]:
    return info.name, info.type.SerializeToString(deterministic=True)


def _node(node: onnx.NodeProto) -> bytes:
    attributes = sorted((attribute.name, _attribute(attribute)) for attribute in node.attribute)
    domain = "" if node.domain == "ai.onnx" else node.domain
    return repr((node.op_type, domain, list(node.input), list(node.output), attributes)).encode()


def _attribute(attribute: onnx.AttributeProto) -> bytes:
    kinds = onnx.AttributeProto
    if attribute.type == kinds.GRAPH:
        return _graph(attribute.g)
    if attribute.type == kinds.GRAPHS:
        return b"".join(map(_graph, attribute.graphs))
    if attribute.type == kinds.TENSOR:
        return _tensor(attribute.t)
    plain = kinds()
    plain.CopyFrom(attribute)
    plain.ClearField("doc_string")
    data: bytes = plain.SerializeToString(deterministic=True)
    return data


def _tensor(tensor: onnx.TensorProto) -> bytes:
    digest = hashlib.sha256(repr((tensor.data_type, list(tensor.dims))).encode())
    if tensor.HasField("raw_data"):
        digest.update(tensor.raw_data)
    elif tensor.data_type == onnx.TensorProto.STRING:
        digest.update(repr(list(tensor.string_data)).encode())
    else:
        digest.update(onnx.numpy_helper.to_array(tensor).tobytes())
    return digest.digest()


def _bytes(part: bytes) -> bytes:
    return len(part).to_bytes(8, "little") + part
