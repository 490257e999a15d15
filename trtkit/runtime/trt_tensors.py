"""The I/O tensors of an engine, read once by the tensor API (TensorRT 8.5 and later), with numpy's names for the "
  "types."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from trtkit._optional import require
from trtkit.errors import BundleError, SpecError
from trtkit.tensors import Array, TensorSpec

__all__ = ["IoTensor", "cast_to", "read_io"]

DTYPES = {"FLOAT": "float32", "HALF": "float16", "INT8": "int8", "INT32": "int32", "INT64": "int64", "BOOL": "bool",
          "UINT8": "uint8", "BF16": "bfloat16", "FP8": "float8_e4m3fn"}
"""TensorRT's names -> numpy's. trt.nptype raises for BF16 and FP8, which are ml_dtypes' types in numpy."""

_STAND_INS = {("int64", "int32"), ("float64", "float32")}
"""(what the model says, what the engine has): TensorRT 8 has no INT64, and no TensorRT has DOUBLE at its edges."""


@dataclass(frozen=True)
class IoTensor:
    """One input or output of an engine.

    Attributes:
        spec: What the caller sees: the model's dtype and shape.
        dtype: What the engine takes or gives.
        on_host: Whether the engine reads or writes it in host memory (shape tensors).
    """

    spec: TensorSpec
    dtype: np.dtype[Any]
    on_host: bool

    @property
    def name(self) -> str:
        """Its name."""
        return self.spec.name


def read_io(trt: Any, engine: Any, model: Sequence[TensorSpec]) -> tuple[tuple[IoTensor, ...], tuple[IoTensor, ...]]:
    """Return the inputs and the outputs of an engine.

    Args:
        trt: The imported TensorRT.
        engine: Its ICudaEngine.
        model: Inputs and outputs as the ONNX model declared them; where given they name dynamic sizes, and dtypes that
            TensorRT narrowed.

    Raises:
        BundleError: A tensor has a type that numpy has no name for, or one that does not go with the model's.
    """
    declared = {spec.name: spec for spec in model}
    inputs: list[IoTensor] = []
    outputs: list[IoTensor] = []
    for index in range(engine.num_io_tensors):
        name = engine.get_tensor_name(index)
        is_input = engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT
        (inputs if is_input else outputs).append(_read(trt, engine, name, declared.get(name)))
    return tuple(inputs), tuple(outputs)


def _read(trt: Any, engine: Any, name: str, declared: TensorSpec | None) -> IoTensor:
    kind = engine.get_tensor_dtype(name).name
    if kind not in DTYPES:
        raise BundleError(f"Tensor '{name}' of the engine has type {kind}, which numpy does not know. Keep such types "
                          "inside the model, and cast its inputs and outputs")
    shape = tuple(engine.get_tensor_shape(name))
    dims = tuple(size if size >= 0 else f"{name}_{axis}" for axis, size in enumerate(shape))
    own = TensorSpec(name, DTYPES[kind], dims)
    if declared is not None and declared.dtype != own.dtype and (declared.dtype, own.dtype) not in _STAND_INS:
        raise BundleError(f"Tensor '{name}' is {own.dtype} in the engine and {declared.dtype} in the model. The plan "
                          "is of another model; build it again")
    return IoTensor(declared or own, _dtype(own.dtype), engine.get_tensor_location(name) == trt.TensorLocation.HOST)


def _dtype(name: str) -> np.dtype[Any]:
    if name not in ("bfloat16", "float8_e4m3fn"):
        return np.dtype(name)
    extended: np.dtype[Any] = np.dtype(getattr(require("ml_dtypes", extra="onnx", feature=f"A {name} tensor"), name))
    return extended


def cast_to(array: Array, dtype: np.dtype[Any], name: str) -> Array:
    """Return the array as C-contiguous `dtype`.

    Raises:
        SpecError: An INT64 value does not fit into INT32.
    """
    if array.dtype == np.int64 and dtype == np.int32 and array.size:
        limits = np.iinfo(np.int32)
        if array.min() < limits.min or array.max() > limits.max:
            raise SpecError(f"Input '{name}' holds {array.min()}..{array.max()}; this TensorRT takes it as INT32. Feed "
                            f"values between {limits.min} and {limits.max}")
    return np.ascontiguousarray(array, dtype)
