from __future__ import annotations

import pytest
import torch
from torch import nn

from trtkit.compress.size import count


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.attention(x, x, x, need_weights=False)[0]


class Fused(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.scaled_dot_product_attention(x, x, x)


@pytest.mark.parametrize(("module", "shape", "macs"), [
    (nn.Conv2d(3, 8, 3, padding=1), (1, 3, 8, 8), 8 * 8 * 8 * 27),
    (nn.Conv2d(8, 8, 3, padding=1, groups=8), (1, 8, 8, 8), 8 * 8 * 8 * 9),
    (nn.Linear(6, 10), (2, 6), 120),
    (Attention(), (1, 5, 8), 5 * 8 * 24 + 5 * 8 * 8 + 2 * 5 * 5 * 8),
    (Fused(), (1, 2, 5, 4), 2 * 5 * 5 * 8),
], ids=["conv", "depthwise", "linear", "attention", "fused attention"])
def test_macs_are_those_of_the_definition(module: nn.Module, shape: tuple[int, ...], macs: int) -> None:
    module.train()
    assert count(module, torch.zeros(shape)).macs == macs
    assert module.training


def test_shared_parameters_count_once() -> None:
    first, second = nn.Linear(4, 4), nn.Linear(4, 4)
    second.weight = first.weight
    size = count(nn.Sequential(first, second, nn.BatchNorm1d(4)), torch.zeros(2, 4))
    assert size.parameters == 16 + 4 + 4 + 8
    assert size.bytes == 4 * (size.parameters + 8) + 8
