"""Modules that torch quantized, or is about to -> a word on what to do instead: TensorRT takes none of their forms.

Known by the packages of classes and the names of operators, so that neither torch.ao nor torchao is imported.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from trtkit.errors import ExportError

__all__ = ["refuse_quantized"]

_STATIC = ("trtkit export FACTORY, then: trtkit calibrate MODEL, then: trtkit quantize MODEL --target TARGET "
           "--precision int8 --calib TABLE")

_DYNAMIC = ("quantize_dynamic made it, and its packed weights have no form in ONNX. Export the float module, as it was "
            "before, then: trtkit quantize MODEL --target TARGET --precision int8-dynamic for CPUs, or --precision "
            "int8 --calib TABLE for TensorRT")
_CONVERTED = ("torch's quantization made it, and its packed weights and integer operators have no form that TensorRT "
              f"takes. Take the float module, as it was before prepare and convert: {_STATIC}")
_OBSERVED = ("it is prepared for torch's quantization, and observers are no part of a model. Take the float module, as "
             f"it was before prepare: {_STATIC}")
_TRAINED = ("it is trained for torch's grids, which are not those of the target. Put its weights into the float "
            f"module and take that: {_STATIC}; to train for the target's own grids: trtkit.compress.qat")
_TORCHAO = ("torchao's quantization has no form that TensorRT takes. Take the float module, as it was before "
            f"quantize_: {_STATIC}; or without a table --precision int4 or, for CPUs, int8-dynamic")

_CLASSES = (
    ("torch.ao.nn.quantized.dynamic.", _DYNAMIC),
    ("torch.ao.nn.intrinsic.quantized.dynamic.", _DYNAMIC),
    ("torch.ao.nn.quantized.", _CONVERTED),
    ("torch.ao.nn.intrinsic.quantized.", _CONVERTED),
    ("torch.ao.nn.sparse.quantized.", _CONVERTED),
    ("torch.ao.nn.quantizable.", _OBSERVED),
    ("torch.ao.nn.qat.", _TRAINED),
    ("torch.ao.nn.intrinsic.qat.", _TRAINED),
    ("torch.ao.quantization.fake_quantize.", _TRAINED),
    ("torch.ao.quantization._learnable_fake_quantize.", _TRAINED),
    ("torch.ao.quantization.observer.", _OBSERVED),
    ("torchao.quantization.pt2e.fake_quantize.", _TRAINED),
    ("torchao.quantization.pt2e.", _OBSERVED),
    ("torchao.quantization.qat.", _TRAINED),
    ("torchao.", _TORCHAO),
)
"""Beginning of a class's full name -> why it is refused; the first that fits counts."""

_NAMESPACES = ("quantized_decomposed", "quantized", "torchao")
_FUNCTIONS = ("quantize_per_tensor", "quantize_per_channel", "quantize_per_tensor_dynamic")
"""Operators that converting leaves in an FX graph: namespaces of torch.ops, and functions of torch."""


def refuse_quantized(module: torch.nn.Module) -> None:
    """Raise ExportError when a module holds layers, weights, observers or operators of torch.ao or torchao."""
    for name, each in module.named_modules():
        for path in _class_paths(each):
            _refuse(f"Layer '{name}'", path)
        if isinstance(each, torch.fx.GraphModule):
            _refuse_operators(name, each)
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        for path in _class_paths(tensor):
            _refuse(f"Weight '{name}'", path)
        if tensor.is_quantized:
            raise ExportError(f"Weight '{name}' is a quantized tensor ({tensor.dtype}): {_CONVERTED}")


def _refuse(what: str, path: str) -> None:
    for prefix, why in _CLASSES:
        if path.startswith(prefix):
            raise ExportError(f"{what} is {path}: {why}")


def _class_paths(value: Any) -> Iterator[str]:
    """Yield the full name of a value's class and of those that it derives from; a scripted module's is the original."""
    if isinstance(value, torch.jit.ScriptModule):
        yield value._c._type().qualified_name().removeprefix("__torch__.")
        return
    for kind in type(value).__mro__:
        yield f"{kind.__module__}.{kind.__qualname__}"


def _refuse_operators(name: str, module: torch.fx.GraphModule) -> None:
    for node in module.graph.nodes:
        space = getattr(node.target, "namespace", None)
        if node.op == "call_function" and (space in _NAMESPACES
                                           or getattr(node.target, "__name__", None) in _FUNCTIONS):
            raise ExportError(f"Graph '{name or type(module).__name__}' calls {node.target} at '{node.name}': "
                              f"{_CONVERTED}")
