"""Weight [K, N] -> 4-bit integers with a scale for every block of K: what TensorRT and ONNX Runtime call INT4.

    w' = (q - z) * s,     q, z, s of element (k, n): q[k, n], z[k // block, n], s[k // block, n]

Blocks lie along K, the axis that a MatMul sums over. NEAREST takes the grid that just spans a block. ADAPTIVE tries
narrower ones as well and, for each, replaces the scale by the best one for the integers that it gives,

    s = sum(w (q - z)) / sum((q - z)^2),

and keeps what has the smallest squared error. Sources: Choukroun et al., Low-bit Quantization of Neural Networks for
Efficient Inference, 2019 (search of the scale by squared error, section 4.1, here a block at a time); Zhang et al.,
LQ-Nets, 2018, section 3.2 (integers and scale in turns).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from trtkit.errors import SpecError
from trtkit.precision import Rounding
from trtkit.tensors import Array

__all__ = ["BlockWeight", "quantize_blocks"]

_SHRINK = np.linspace(1.15, 0.6, 12, dtype=np.float32)
"""Spans that ADAPTIVE tries, as shares of what a block needs. At 4 bits the best lies between 0.7 and 1.1."""

_CHUNK_ELEMENTS = 1 << 22
"""Weights worked on at once: bounds the temporary memory."""


@dataclass(frozen=True)
class BlockWeight:
    """4-bit integers and their scales.

    Attributes:
        values: Shape (B * block, N), B blocks; int8 in [-8, 7], or uint8 in [0, 15] with zero points. Rows beyond
            `rows` are padding and stand for 0.
        scale: float32, shape (B, N), > 0.
        zero_point: uint8 in [0, 15], shape (B, N); None: 0.
        block: Rows that share a scale.
        rows: K of the source.
    """

    values: Array
    scale: Array
    zero_point: Array | None
    block: int
    rows: int

    def dequantized(self) -> Array:
        """Return (values - zero_point) * scale, float32, shape (K, N) of the source."""
        steps = self.values.astype(np.float32)
        if self.zero_point is not None:
            steps -= np.repeat(self.zero_point, self.block, axis=0)
        steps *= np.repeat(self.scale, self.block, axis=0)
        return steps[:self.rows]


def quantize_blocks(weight: Array, block: int, rounding: Rounding, *, symmetric: bool) -> BlockWeight:
    """Quantize a matrix to 4 bits.

    Args:
        weight: float32, finite, shape (K, N); the product is x @ weight.
        block: Rows that share a scale; K is padded to a multiple of it.
        rounding: NEAREST, or ADAPTIVE for the least squared error.
        symmetric: int8 in [-8, 7] without zero points (TensorRT), or uint8 in [0, 15] with them.

    Returns:
        Integers, scales and zero points. A block of zeros has scale 1.

    Raises:
        SpecError: The weight is no matrix, or not finite.
    """
    if weight.ndim != 2 or not np.isfinite(weight).all():
        raise SpecError(f"A weight of shape {list(weight.shape)}{'' if weight.ndim != 2 else ' with infinite values'} "
                        "cannot be quantized in blocks. Give a finite matrix [K, N]")
    rows, columns = weight.shape
    count = -(-rows // block)
    padded = weight.astype(np.float32, copy=False)
    if count * block > rows:
        padded = np.pad(padded, ((0, count * block - rows), (0, 0)))
    blocks = padded.reshape(count, block, columns)
    values = np.empty(blocks.shape, np.int8 if symmetric else np.uint8)
    scale, zero = np.empty((count, columns), np.float32), np.empty((count, columns), np.float32)
    step = max(1, _CHUNK_ELEMENTS // max(1, block * columns))
    for start in range(0, count, step):
        part = slice(start, start + step)
        values[part], scale[part], zero[part] = _quantize(blocks[part], rounding, symmetric)
    return BlockWeight(values.reshape(count * block, columns), scale, None if symmetric else zero.astype(np.uint8),
                       block, rows)


def _quantize(blocks: Array, rounding: Rounding, symmetric: bool) -> tuple[Array, Array, Array]:
    """Return integers, scales and zero points (as float32) of blocks of shape (B, block, N)."""
    grids = _symmetric_grids if symmetric else _asymmetric_grids
    bounds = (-8.0, 7.0) if symmetric else (0.0, 15.0)
    best_error, best = None, None
    for scale, zero in grids(blocks, _SHRINK if rounding is Rounding.ADAPTIVE else np.ones(1, np.float32)):
        steps = _steps(blocks, scale, zero, bounds)
        if rounding is Rounding.ADAPTIVE:
            scale = _best_scale(blocks, steps - zero[:, None], scale)
            steps = _steps(blocks, scale, zero, bounds)
        error = (steps - zero[:, None]) * scale[:, None] - blocks
        error = np.einsum("bkn,bkn->bn", error, error)
        if best is None or best_error is None:
            best_error, best = error, (steps, scale, zero)
            continue
        better = error < best_error
        best_error = np.where(better, error, best_error)
        best = (np.where(better[:, None], steps, best[0]), np.where(better, scale, best[1]),
                np.where(better, zero, best[2]))
    assert best is not None
    return best


def _symmetric_grids(blocks: Array, shares: Array) -> Iterator[tuple[Array, Array]]:
    amax = np.abs(blocks).max(axis=1)
    zero = np.zeros_like(amax)
    for share in shares:
        yield _positive(amax * (share / 7)), zero


def _asymmetric_grids(blocks: Array, shares: Array) -> Iterator[tuple[Array, Array]]:
    low, high = np.minimum(blocks.min(axis=1), 0), np.maximum(blocks.max(axis=1), 0)
    for share in shares:
        scale = _positive((high - low) * (share / 15))
        yield scale, np.clip(np.rint(-low * share / scale), 0, 15)


def _positive(scale: Array) -> Array:
    """Replace scales that are no normal float32, those of blocks of zeros, by 1."""
    return np.where(scale < np.finfo(np.float32).tiny, np.float32(1), scale)


def _steps(blocks: Array, scale: Array, zero: Array, bounds: tuple[float, float]) -> Array:
    steps = np.rint(blocks / scale[:, None])
    steps += zero[:, None]
    return np.asarray(np.clip(steps, *bounds, out=steps))


def _best_scale(blocks: Array, steps: Array, scale: Array) -> Array:
    """Return the scale of least squared error for given integers; the old one where there is none above 0."""
    product, square = np.einsum("bkn,bkn->bn", blocks, steps), np.einsum("bkn,bkn->bn", steps, steps)
    with np.errstate(divide="ignore", invalid="ignore"):
        best = product / square
    return np.where(best >= np.finfo(np.float32).tiny, best, scale)
