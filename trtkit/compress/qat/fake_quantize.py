"""Float tensors rounded to an integer grid: forward what the target computes, backward straight through.

    x' = clip(round(x / s), low, high) s         low and high are counted from the zero point
    dL/dx = dL/dx' inside the grid, 0 outside
    dL/ds = sum(dL/dx' (x' - x) / s) inside, sum(dL/dx' x' / s) outside, times 1 / sqrt(N high)

Source: Esser et al., Learned Step Size Quantization, 2020 (arXiv:1902.08153), equations 3 to 5. What is trained is p in
s = s0 exp(p), so that a step of an optimizer changes the scale by a share of itself, it stays positive, and p = 0 is
the scale of PTQ to the bit (log domain: Jain et al., Trained Quantization Thresholds, 2020, arXiv:1903.08066, section
3.3). torch's own kernel for learnable scales multiplies by 1 / s where ONNX divides, and takes twice as long.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from trtkit.tensors import Array

__all__ = ["BiasQuantizer", "FollowingQuantizer", "Quantizer", "half_scale"]

_HALF_NORMAL, _HALF_STEP, _HALF_LARGEST = 2.0**-14, 2.0**-24, 65504.0
_SMALLEST_HALF_SCALE = 2.0**-20


class _RoundToGrid(torch.autograd.Function):  # type: ignore[misc]  # torch is not seen by the type checker
    """x, s -> clip(round(x / s), low, high) s, by the formulas above."""

    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, scale: torch.Tensor, low: int, high: int) -> torch.Tensor:
        rounded = (values / scale).round_().clamp_(low, high).mul_(scale)
        ctx.save_for_backward(values, scale, rounded)
        ctx.high = high
        return rounded

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        values, scale, rounded = ctx.saved_tensors
        gradient, = gradients
        passed = torch.where((values - rounded).abs_() <= 0.501 * scale, gradient, 0.0)
        if not ctx.needs_input_grad[1]:
            return passed, None, None, None
        if scale.numel() == 1:
            total = gradient.flatten() @ rounded.flatten() - passed.flatten() @ values.flatten()
        else:
            axes = [axis for axis, size in enumerate(scale.shape) if size == 1]
            total = (gradient * rounded - passed * values).sum(axes, keepdim=True)
        count = values.numel() / scale.numel() * max(1, ctx.high)
        return passed, total.reshape(scale.shape) / (scale * count**0.5), None, None


class Quantizer(nn.Module):  # type: ignore[misc]
    """A tensor's values rounded to a grid whose scale is trained, or fixed.

    Args:
        scale: float32, > 0, () or (C,): where training begins.
        low, high: Smallest and largest integer, counted from the zero point.
        axis: Channel axis of the scales; None for one scale.
        learned: Whether the scale is trained.
        largest: Largest scale; None: no bound.
        half: Scales are float16 numbers, as INT8 with FP16 stores them.
    """

    def __init__(self, scale: Array, low: int, high: int, *, axis: int | None = None, learned: bool = True,
                 largest: float | None = None, half: bool = False) -> None:
        super().__init__()
        self.low, self.high, self.axis, self.largest, self.half = low, high, axis, largest, half
        self.start: torch.Tensor
        self.register_buffer("start", torch.tensor(scale, dtype=torch.float32))
        self.log_ratio = nn.Parameter(torch.zeros_like(self.start), requires_grad=learned)

    @property
    def scale(self) -> torch.Tensor:
        """The scale as it is now, () or (C,), with its gradient."""
        scale = self.start * self.log_ratio.exp()
        if self.largest is not None:
            scale = scale.clamp(max=self.largest)
        return scale + (half_scale(scale.detach()) - scale.detach()) if self.half else scale

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Return the values on the grid, in the shape of `values`."""
        scale = _along(self.scale, self.axis, values.ndim)
        return _RoundToGrid.apply(values.float(), scale, self.low, self.high)


class FollowingQuantizer(nn.Module):  # type: ignore[misc]
    """A weight on the grid that just covers it: what TensorRT makes of weights on the weak path, which has no scales.

    Args:
        largest: Largest integer.
        axis: Channel axis of the scales; None for one scale.
    """

    def __init__(self, largest: int, axis: int | None) -> None:
        super().__init__()
        self.largest, self.axis = largest, axis

    def scale_of(self, weight: torch.Tensor) -> torch.Tensor:
        """Return the scales of a weight, () or (C,)."""
        rows = weight.detach().abs()
        amax = rows.amax() if self.axis is None else rows.transpose(0, self.axis).flatten(1).amax(1)
        return torch.where(amax < np.finfo(np.float32).tiny * 256, 1.0, amax / self.largest)

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        """Return the weight on its grid."""
        scale = _along(self.scale_of(weight), self.axis, weight.ndim)
        return _RoundToGrid.apply(weight, scale, -self.largest, self.largest)


class BiasQuantizer(nn.Module):  # type: ignore[misc]
    """An INT32 bias: steps of the product of the scales of input and weight, which learn nothing from it.

    Args:
        weight: Quantizer of the layer's weight.
        source: Quantizer of its input.
    """

    def __init__(self, weight: Quantizer, source: Quantizer) -> None:
        super().__init__()
        self._others = (weight, source)  # a tuple: they are not this module's own

    def forward(self, bias: torch.Tensor) -> torch.Tensor:
        """Return the bias on its steps; its gradient passes."""
        weight, source = self._others
        step = (weight.scale * source.scale).detach().double()
        steps = (bias.detach().double() / step).round_()
        return bias + ((steps * step).float() - bias.detach())


def _along(scale: torch.Tensor, axis: int | None, rank: int) -> torch.Tensor:
    return scale if axis is None else scale.reshape([-1 if each == axis else 1 for each in range(rank)])


def half_scale(scale: torch.Tensor) -> torch.Tensor:
    """Return the float16 numbers that trtkit.quant.floats.mixed stores for scales."""
    small = (scale / _HALF_STEP).ceil() * _HALF_STEP
    return torch.where(scale < _HALF_NORMAL, small, scale.clamp(max=_HALF_LARGEST).half().float())
