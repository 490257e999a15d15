"""The 16-bit float formats FP16 and BF16: limits, tensors, and the operators that ONNX and TensorRT define on them.

    FP16: 5 bits of exponent, 10 of mantissa: digits, and a range from 6e-8 to 65504
    BF16: 8 bits of exponent,  7 of mantissa: the range of float32, and 2 to 3 digits
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto

from trtkit.quant.index import as_tensor
from trtkit.tensors import Array

__all__ = ["BF16", "FP16", "HalfFormat"]


@dataclass(frozen=True)
class HalfFormat:
    """A 16-bit float format.

    Attributes:
        name: "FP16" or "BF16".
        code: TensorProto data type.
        type_name: As ONNX operator schemas spell it.
        largest: Largest finite value.
        smallest_normal: Smallest value of full precision.
        smallest: Smallest value above 0.
        refused: Operators that ONNX defines on the format and TensorRT refuses.
    """

    name: str
    code: int
    type_name: str
    largest: float
    smallest_normal: float
    smallest: float
    refused: frozenset[str] = frozenset()

    def tensor(self, name: str, value: Array) -> Any:
        """Return an initializer of this format with the nearest values, ties to even.

        Args:
            name: Its name.
            value: float32, finite after rounding, any shape.
        """
        if self.code == TensorProto.FLOAT16:
            return as_tensor(name, value.astype(np.float16))
        bits = _bf16_bits(value)
        return TensorProto(name=name, data_type=self.code, dims=bits.shape, raw_data=bits.astype("<u2").tobytes())

    def rounded(self, value: Array) -> Array:
        """Return float32 values rounded to this format; what is too large becomes infinite."""
        if self.code == TensorProto.FLOAT16:
            with np.errstate(over="ignore"):
                return value.astype(np.float16).astype(np.float32)
        return np.asarray((_bf16_bits(value).astype(np.uint32) << np.uint32(16)).view(np.float32))

    def defines(self, node: Any, opset: int, exempt: tuple[int, ...] = ()) -> bool:
        """Whether an operator of ONNX's own takes and gives this format wherever it may have float32.

        Args:
            node: The node.
            opset: Of the model.
            exempt: Positions of inputs that stay float32 whatever the rest is.
        """
        if node.domain not in ("", "ai.onnx") or node.op_type in self.refused:
            return False
        return _defines(node.op_type, opset, self.type_name, exempt)


FP16 = HalfFormat("FP16", TensorProto.FLOAT16, "tensor(float16)", 65504.0, 2.0**-14, 2.0**-24)
BF16 = HalfFormat("BF16", TensorProto.BFLOAT16, "tensor(bfloat16)", 3.3895313892515355e38, 2.0**-126, 2.0**-133,
                  frozenset({"ConvTranspose", "HardSwish", "Mish"}))
"""TensorRT-RTX 1.7 does not import HardSwish and Mish in BF16, and has no BF16 kernel for ConvTranspose."""


def _bf16_bits(value: Array) -> Array:
    """Return the upper halves of float32 patterns, rounded to nearest, ties to even; shape of `value`, uint16."""
    bits = np.ascontiguousarray(value, np.float32).view(np.uint32).reshape(np.shape(value))
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    return np.asarray(np.where(np.isnan(value), np.uint32(0x7FC0), rounded), np.uint16)


@lru_cache(maxsize=4096)
def _defines(op_type: str, opset: int, type_name: str, exempt: tuple[int, ...]) -> bool:
    try:
        schema = onnx.defs.get_schema(op_type, opset)
    except onnx.defs.SchemaError:
        return False
    inputs = [each for position, each in enumerate(schema.inputs) if position not in exempt]
    if any(each.type_str == "tensor(float)" for each in (*inputs, *schema.outputs)):
        return False
    free = {each.type_str for each in schema.inputs} - {each.type_str for each in inputs}
    return all(type_name in each.allowed_type_strs for each in schema.type_constraints
               if "tensor(float)" in each.allowed_type_strs and each.type_param_str not in free)
