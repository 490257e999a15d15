"""Element by element: arithmetic, elementary functions, comparisons, logic, casts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import onnx
import torch

from trtkit.compress.qat.operators.registry import Kernel, Node, Operator, apply, variadic

__all__ = ["ARITHMETIC", "torch_dtype"]

_DTYPES: Mapping[int, torch.dtype] = MappingProxyType({
    onnx.TensorProto.FLOAT: torch.float32, onnx.TensorProto.FLOAT16: torch.float16,
    onnx.TensorProto.BFLOAT16: torch.bfloat16, onnx.TensorProto.DOUBLE: torch.float64,
    onnx.TensorProto.INT64: torch.int64, onnx.TensorProto.INT32: torch.int32, onnx.TensorProto.INT16: torch.int16,
    onnx.TensorProto.INT8: torch.int8, onnx.TensorProto.UINT8: torch.uint8, onnx.TensorProto.BOOL: torch.bool,
})


def torch_dtype(node: Node, onnx_type: int) -> torch.dtype:
    """Return the torch type of an ONNX element type.

    Raises:
        GraphError: torch computes with no such type.
    """
    if onnx_type not in _DTYPES:
        node.refuse(f"torch does not compute with {onnx.TensorProto.DataType.Name(onnx_type)}")
    return _DTYPES[onnx_type]


def _div(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return torch.div(x, y) if x.is_floating_point() else torch.div(x, y, rounding_mode="trunc")


def _pow(x: torch.Tensor, exponent: torch.Tensor) -> torch.Tensor:
    power = torch.pow(x, exponent.item() if exponent.numel() == 1 and exponent.dim() <= x.dim() else exponent)
    return power if power.dtype == x.dtype else power.to(x.dtype)


def _mod(node: Node) -> Kernel:
    function: Kernel = torch.fmod if node.get("fmod", 0) else torch.remainder
    return function


def _mean(*tensors: torch.Tensor) -> torch.Tensor:
    return torch.stack(torch.broadcast_tensors(*tensors)).mean(0)


def _is_infinite(node: Node) -> Kernel:
    positive, negative = node.get("detect_positive", 1), node.get("detect_negative", 1)
    return lambda x: torch.isinf(x) & (((x > 0) & bool(positive)) | ((x < 0) & bool(negative)))


def _cast(node: Node) -> Kernel:
    dtype = torch_dtype(node, node.get("to"))
    return lambda x: x.to(dtype)


def _affine(function: Callable[..., torch.Tensor]) -> Operator:
    return Operator(lambda node: function, affine=True)


_FUNCTIONS = {
    "Abs": torch.abs, "Acos": torch.acos, "Acosh": torch.acosh, "And": torch.logical_and, "Asin": torch.asin,
    "Asinh": torch.asinh, "Atan": torch.atan, "Atanh": torch.atanh, "Ceil": torch.ceil, "Cos": torch.cos,
    "Cosh": torch.cosh, "Equal": torch.eq, "Erf": torch.erf, "Exp": torch.exp, "Floor": torch.floor,
    "Greater": torch.gt, "GreaterOrEqual": torch.ge, "Identity": lambda x: x, "IsNaN": torch.isnan, "Less": torch.lt,
    "LessOrEqual": torch.le, "Log": torch.log, "Neg": torch.neg, "Not": torch.logical_not, "Or": torch.logical_or,
    "Reciprocal": torch.reciprocal, "Round": torch.round, "Sign": torch.sign, "Sin": torch.sin, "Sinh": torch.sinh,
    "Sqrt": torch.sqrt, "Tan": torch.tan, "Where": torch.where, "Xor": torch.logical_xor,
    "CastLike": lambda x, like: x.to(like.dtype), "Mean": _mean,
}

ARITHMETIC: Mapping[str, Operator] = MappingProxyType({
    **{name: apply(function) for name, function in _FUNCTIONS.items()},
    "Add": _affine(torch.add), "Sub": _affine(torch.sub), "Mul": _affine(torch.mul), "Div": _affine(_div),
    "Pow": Operator(lambda node: _pow, host=(1,)), "Mod": Operator(_mod),
    "Max": variadic(torch.maximum), "Min": variadic(torch.minimum), "Sum": variadic(torch.add),
    "IsInf": Operator(_is_infinite), "Cast": Operator(_cast),
})
