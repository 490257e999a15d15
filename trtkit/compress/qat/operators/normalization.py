"""Normalizations; BatchNormalization with the statistics that the model holds, which training does not change."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import torch
import torch.nn.functional as F

from trtkit.compress.qat.operators.registry import Kernel, Node, Operator

__all__ = ["NORMALIZATION"]


def _batch_norm(node: Node) -> Kernel:
    if node.get("training_mode", 0):
        node.refuse("it takes its statistics from the batch (training_mode 1)")
    node.one_output()
    epsilon = node.get("epsilon", 1e-5)

    def run(x: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor, mean: torch.Tensor,
            variance: torch.Tensor) -> torch.Tensor:
        return F.batch_norm(x, mean.detach(), variance.detach(), scale, bias, training=False, eps=epsilon)

    return run


def _instance_norm(node: Node) -> Kernel:
    epsilon = node.get("epsilon", 1e-5)
    return lambda x, scale, bias: F.instance_norm(x, weight=scale, bias=bias, eps=epsilon)


def _layer_norm(node: Node) -> Kernel:
    node.one_output()
    axis, epsilon = node.get("axis", -1), node.get("epsilon", 1e-5)

    def run(x: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        shape = x.shape[axis:]
        if scale.shape == shape and (bias is None or bias.shape == shape):
            return F.layer_norm(x, shape, scale, bias, epsilon)
        y = F.layer_norm(x, shape, eps=epsilon) * scale
        return y if bias is None else y + bias

    return run


def _rms_norm(node: Node) -> Kernel:
    axis, epsilon = node.get("axis", -1), node.get("epsilon", 1e-5)
    return lambda x, scale: F.rms_norm(x, x.shape[axis:], eps=epsilon) * scale


def _group_norm(node: Node) -> Kernel:
    groups, epsilon = node.get("num_groups"), node.get("epsilon", 1e-5)

    def run(x: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        each = x.shape[1] // scale.shape[0]  # opset 18 has one scale a group, opset 21 one a channel
        return F.group_norm(x, groups, scale.repeat_interleave(each), bias.repeat_interleave(each), epsilon)

    return run


def _lp_norm(node: Node) -> Kernel:
    axis, order = node.get("axis", -1), node.get("p", 2)
    return lambda x: x / torch.linalg.vector_norm(x, order, dim=axis, keepdim=True)


def _local_response_norm(node: Node) -> Kernel:
    size, alpha, beta, bias = node.get("size"), node.get("alpha", 1e-4), node.get("beta", 0.75), node.get("bias", 1.0)
    if size % 2 == 0:
        node.refuse(f"its size {size} is even, which torch centres elsewhere")
    return lambda x: F.local_response_norm(x, size, alpha, beta, bias)


def _dropout(node: Node) -> Kernel:
    node.one_output()
    return lambda x, *ratio_and_mode: x


NORMALIZATION: Mapping[str, Operator] = MappingProxyType({
    "BatchNormalization": Operator(_batch_norm, trained=(1, 2)),
    "InstanceNormalization": Operator(_instance_norm, trained=(1, 2)),
    "LayerNormalization": Operator(_layer_norm, trained=(1, 2)),
    "RMSNormalization": Operator(_rms_norm, trained=(1,)),
    "GroupNormalization": Operator(_group_norm, trained=(1, 2)),
    "LpNormalization": Operator(_lp_norm),
    "LRN": Operator(_local_response_norm),
    "Dropout": Operator(_dropout),
})
