"""The grid that a QuantizeLinear or DequantizeLinear node, or an integer operator's operand, writes down.

    x = (q - z) * s
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from trtkit.quant.index import GraphIndex, attribute
from trtkit.tensors import Array

__all__ = ["Step", "make_step", "node_step"]

_BOUNDS = {"int8": (-128, 127), "uint8": (0, 255), "int16": (-32768, 32767), "uint16": (0, 65535), "int4": (-8, 7),
           "uint4": (0, 15), "int32": (-2**31, 2**31 - 1)}


@dataclass(frozen=True, eq=False)
class Step:
    """Scale and zero point as a model stores them.

    Attributes:
        scale: Shape () for one, (C,) along `axis`, or blocked; float32 or the type that is stored. None: computed.
        zero_point: In the shape of the scale, int64; None: computed.
        dtype: Type of the integers, such as "uint8"; a float8 type's ONNX name for FP8.
        axis: Channel axis of several scales; None for one scale.
        block: Elements along `axis` that share a scale; 0: not blocked.
        explicit: The model states the zero point.
        float_type: ONNX name of the scale's type, such as "float32".
    """

    scale: Array | None
    zero_point: Array | None
    dtype: str
    axis: int | None = None
    block: int = 0
    explicit: bool = True
    float_type: str = "float32"

    @property
    def is_8bit(self) -> bool:
        """Whether the integers are INT8 or UINT8 on a grid that is constant and not blocked."""
        return self.dtype in ("int8", "uint8") and self.scale is not None and self.zero_point is not None \
            and not self.block

    @property
    def symmetric(self) -> bool:
        """Whether the zero points are all 0."""
        return self.zero_point is not None and not self.zero_point.any()

    @property
    def range(self) -> tuple[float, float]:
        """Smallest and largest real value; a symmetric INT8 grid is taken to end at -127.

        Only for a constant integer grid.
        """
        assert self.scale is not None
        assert self.zero_point is not None
        low, high = _BOUNDS[self.dtype]
        if self.dtype == "int8" and self.symmetric:
            low = -127
        scale = np.nan_to_num(self.scale.astype(np.float64))
        return float(((low - self.zero_point) * scale).min()), float(((high - self.zero_point) * scale).max())

    def quantize(self, values: Array) -> Array:
        """Return float values as integers of this grid: round half to even, saturated (ONNX QuantizeLinear)."""
        scale, zero = self._along(values.ndim)
        low, high = _BOUNDS[self.dtype]
        with np.errstate(all="ignore"):
            return np.asarray(np.clip(np.rint(values / scale) + zero, low, high).astype(np.dtype(self.dtype)))

    def dequantize(self, integers: Array) -> Array:
        """Return the values of integers, float32."""
        scale, zero = self._along(integers.ndim, integers.shape)
        with np.errstate(invalid="ignore", over="ignore"):  # the scales may be anything: the rules tell
            return np.asarray(((integers.astype(np.float64) - zero) * scale).astype(np.float32))

    def _along(self, rank: int, shape: tuple[int, ...] = ()) -> tuple[Array, Array]:
        assert self.scale is not None
        assert self.zero_point is not None
        if self.block and self.axis is not None:
            return tuple(np.repeat(part, self.block, self.axis).take(  # type: ignore[return-value]
                range(shape[self.axis]), self.axis) for part in (self.scale, self.zero_point))
        if self.scale.ndim == 0:
            return self.scale, self.zero_point
        form = [1] * rank
        form[(self.axis or 0) % rank] = -1
        return self.scale.reshape(form), self.zero_point.reshape(form)

    def close_to(self, other: Step) -> bool:
        """Whether both are one grid, to float32's precision."""
        mine, theirs = (self.scale, self.zero_point), (other.scale, other.zero_point)
        if mine[0] is None or theirs[0] is None or mine[1] is None or theirs[1] is None:
            return False
        return self.dtype == other.dtype and mine[0].shape == theirs[0].shape and bool(
            np.allclose(mine[0], theirs[0], rtol=1e-5, atol=0) and np.array_equal(mine[1], theirs[1]))


def make_step(index: GraphIndex, scale: str, zero: str, dtype: str = "", axis: int | None = None,
              block: int = 0) -> Step:
    """Return the step of a scale's and a zero point's tensor names; `dtype` where there is no zero point."""
    known, stored = index.constant(scale), index.initializers.get(zero) if zero else None
    if stored is not None:
        dtype = onnx.helper.tensor_dtype_to_string(stored.data_type).removeprefix("TensorProto.").lower()
    kind = _float_type(index, scale)
    if known is None or (zero and stored is None):
        return Step(None, None, dtype or "uint8", axis, block, bool(zero), kind)
    array = known.astype(np.float32) if kind != "float32" else known
    points = np.zeros(array.shape, np.int64)
    if stored is not None and dtype in _BOUNDS:
        given = onnx.numpy_helper.to_array(stored).astype(np.int64)
        points = np.broadcast_to(given.reshape(()) if given.size == 1 else given, array.shape)
    if array.size == 1 and not block:
        array, points, axis = array.reshape(()), points.reshape(()), None
    return Step(array, points, dtype or "uint8", axis, block, bool(zero), kind)


def node_step(index: GraphIndex, node: Any, dtype: str = "") -> Step:
    """Return the step of a QuantizeLinear or DequantizeLinear node.

    Args:
        index: The graph.
        node: The node.
        dtype: Type of its integers where the node has no zero point to tell; ONNX's default is uint8.
    """
    zero = node.input[2] if len(node.input) > 2 else ""
    if not zero and node.op_type == "QuantizeLinear" and attribute(node, "output_dtype", 0):
        dtype = onnx.helper.tensor_dtype_to_string(attribute(node, "output_dtype", 0)).split(".")[-1].lower()
    return make_step(index, node.input[1], zero, dtype, attribute(node, "axis", 1), attribute(node, "block_size", 0))


def _float_type(index: GraphIndex, name: str) -> str:
    tensor = index.initializers.get(name)
    if tensor is None:
        return "float32"
    return {onnx.TensorProto.FLOAT: "float32", onnx.TensorProto.FLOAT16: "float16",
            onnx.TensorProto.BFLOAT16: "bfloat16"}.get(tensor.data_type, "other")
