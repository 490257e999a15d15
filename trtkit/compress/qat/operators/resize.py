"""Resize: each output element of an axis is a weighted sum of a few input elements (taps), axis by axis.

    x = original coordinate of output element i;   y[i] = sum over t of weight[i, t] * input[place[i, t]]

Source: ONNX, operator Resize; the cubic is Keys, "Cubic convolution interpolation for digital image processing", 1981.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import numpy as np
import torch

from trtkit.compress.qat.operators.registry import Kernel, Node, Operator
from trtkit.tensors import Array

__all__ = ["RESIZE"]

_Coordinates = Callable[[Array, np.float32, int, int], Array]
"""(output positions, scale, input size, output size) -> coordinates in the input, all float32: ties fall as in ORT."""

_COORDINATES: Mapping[str, _Coordinates] = MappingProxyType({
    "half_pixel": lambda at, scale, size, out: (at + 0.5) / scale - 0.5,
    "pytorch_half_pixel": lambda at, scale, size, out: (at + 0.5) / scale - 0.5 if out > 1 else at * 0.0,
    "asymmetric": lambda at, scale, size, out: at / scale,
    "align_corners": lambda at, scale, size, out: at * (size - 1) / (out - 1) if out > 1 else at * 0.0,
    "half_pixel_symmetric":
        lambda at, scale, size, out: size / 2 * (1 - out / (scale * size)) + (at + 0.5) / scale - 0.5,
})

_ROUNDING: Mapping[str, Callable[[Array], Array]] = MappingProxyType({
    "round_prefer_floor": lambda x: np.ceil(x - 0.5), "round_prefer_ceil": lambda x: np.floor(x + 0.5),
    "floor": np.floor, "ceil": np.ceil,
})


def _resize(node: Node) -> Kernel:
    mode, style = node.get("mode", "nearest"), node.get("coordinate_transformation_mode", "half_pixel")
    if style not in _COORDINATES or mode not in ("nearest", "linear", "cubic"):
        node.refuse(f"its mode '{mode}' with coordinates '{style}' has no form here")
    if node.get("antialias", 0) or node.get("keep_aspect_ratio_policy", "stretch") != "stretch":
        node.refuse("antialias and keep_aspect_ratio_policy have no form here")
    axes, rounding = node.get("axes"), _ROUNDING[node.get("nearest_mode", "round_prefer_floor")]
    outside, factor = bool(node.get("exclude_outside", 0)), node.get("cubic_coeff_a", -0.75)

    def taps(coordinates: Array, size: int) -> tuple[Array, Array | None]:
        if mode == "nearest":
            return np.clip(rounding(coordinates), 0, size - 1)[:, None], None
        below = np.floor(coordinates)
        places = below[:, None] + (np.arange(2) if mode == "linear" else np.arange(-1, 3))
        distance = np.abs(coordinates[:, None] - places)
        weights = 1 - distance if mode == "linear" else _cubic(distance, factor)
        if outside and mode == "cubic":
            weights = np.where((places < 0) | (places >= size), 0, weights)
            weights = weights / weights.sum(1, keepdims=True)
        return np.clip(places, 0, size - 1), weights

    def run(x: torch.Tensor, roi: torch.Tensor | None = None, scales: torch.Tensor | None = None,
            sizes: torch.Tensor | None = None) -> torch.Tensor:
        chosen = axes or range(x.dim())
        for axis, scale, out in zip(chosen, *_targets([x.shape[axis] for axis in chosen], scales, sizes)):
            size = x.shape[axis]
            if out != size or scale != 1:
                coordinates = _COORDINATES[style](np.arange(out, dtype=np.float32), np.float32(scale), size, out)
                x = _weighted(x, axis % x.dim(), *taps(coordinates, size))
        return x

    return run


def _targets(shape: Sequence[int], scales: torch.Tensor | None,
             sizes: torch.Tensor | None) -> tuple[Sequence[float], Sequence[int]]:
    """Return scale and output size of each resized axis."""
    if sizes is not None and sizes.numel():
        wanted = sizes.tolist()
        return [out / size for out, size in zip(wanted, shape)], wanted
    assert scales is not None
    factors = scales.tolist()
    return factors, [math.floor(size * factor) for size, factor in zip(shape, factors)]


def _cubic(distance: Array, a: float) -> Array:
    near = ((a + 2) * distance - (a + 3)) * distance ** 2 + 1
    far = ((distance - 5) * distance + 8) * distance * a - 4 * a
    return np.where(distance <= 1, near, np.where(distance < 2, far, 0))


def _weighted(x: torch.Tensor, axis: int, places: Array, weights: Array | None) -> torch.Tensor:
    index = torch.from_numpy(places.astype(np.int64)).to(x.device)
    if weights is None:
        return x.index_select(axis, index[:, 0])
    factors = torch.from_numpy(weights).to(x).reshape(len(weights), -1, *(1,) * (x.dim() - axis - 1))
    return sum(x.index_select(axis, index[:, tap]) * factors[:, tap] for tap in range(index.shape[1]))


RESIZE: Mapping[str, Operator] = MappingProxyType({"Resize": Operator(_resize, host=(1, 2, 3))})
