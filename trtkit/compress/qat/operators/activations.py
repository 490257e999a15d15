"""Activation functions."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from types import MappingProxyType

import torch
import torch.nn.functional as F

from trtkit.compress.qat.operators.registry import Kernel, Node, Operator, apply

__all__ = ["ACTIVATIONS"]

_TORCH_HARDSIGMOID = (1 / 6, 0.5)
_SELU = (1.67326319217681884765625, 1.05070102214813232421875)


def _clip(x: torch.Tensor, low: torch.Tensor | None = None, high: torch.Tensor | None = None) -> torch.Tensor:
    return torch.clamp(x, None if low is None else low.item(), None if high is None else high.item())


def _leaky_relu(node: Node) -> Kernel:
    return functools.partial(F.leaky_relu, negative_slope=node.get("alpha", 0.01))


def _prelu(x: torch.Tensor, slope: torch.Tensor) -> torch.Tensor:
    return torch.where(x < 0, slope * x, x)


def _elu(node: Node) -> Kernel:
    return functools.partial(F.elu, alpha=node.get("alpha", 1.0))


def _celu(node: Node) -> Kernel:
    return functools.partial(F.celu, alpha=node.get("alpha", 1.0))


def _selu(node: Node) -> Kernel:
    alpha, gamma = node.get("alpha", _SELU[0]), node.get("gamma", _SELU[1])
    return lambda x: gamma * F.elu(x, alpha)


def _thresholded_relu(node: Node) -> Kernel:
    alpha = node.get("alpha", 1.0)
    return lambda x: F.threshold(x, alpha, 0.0)


def _hard_sigmoid(node: Node) -> Kernel:
    alpha, beta = node.get("alpha", 0.2), node.get("beta", 0.5)
    if abs(alpha - _TORCH_HARDSIGMOID[0]) < 1e-7 and beta == _TORCH_HARDSIGMOID[1]:
        return F.hardsigmoid
    return lambda x: torch.clamp(alpha * x + beta, 0.0, 1.0)


def _gelu(node: Node) -> Kernel:
    return functools.partial(F.gelu, approximate=node.get("approximate", "none"))


def _swish(node: Node) -> Kernel:
    alpha = node.get("alpha", 1.0)
    return F.silu if alpha == 1 else lambda x: x * torch.sigmoid(alpha * x)


def _softmax(node: Node) -> Kernel:
    return _over_axis(node, torch.softmax)


def _log_softmax(node: Node) -> Kernel:
    return _over_axis(node, torch.log_softmax)


def _over_axis(node: Node, function: Kernel) -> Kernel:
    """Until opset 12 the axes from `axis` on count as one, and the default is 1; then `axis` alone, -1."""
    if node.opset >= 13:
        return functools.partial(function, dim=node.get("axis", -1))
    axis = node.get("axis", 1)
    return lambda x: function(x.flatten(axis), dim=-1).reshape(x.shape) if x.dim() else function(x, dim=-1)


ACTIVATIONS: Mapping[str, Operator] = MappingProxyType({
    "Relu": apply(torch.relu), "Sigmoid": apply(torch.sigmoid), "Tanh": apply(torch.tanh),
    "HardSwish": apply(F.hardswish), "Mish": apply(F.mish), "Softplus": apply(F.softplus),
    "Softsign": apply(F.softsign), "PRelu": Operator(lambda node: _prelu, trained=(1,)),
    "Clip": Operator(lambda node: _clip, host=(1, 2)),
    "LeakyRelu": Operator(_leaky_relu), "Elu": Operator(_elu), "Celu": Operator(_celu), "Selu": Operator(_selu),
    "ThresholdedRelu": Operator(_thresholded_relu), "HardSigmoid": Operator(_hard_sigmoid), "Gelu": Operator(_gelu),
    "Swish": Operator(_swish), "Softmax": Operator(_softmax), "LogSoftmax": Operator(_log_softmax),
})
