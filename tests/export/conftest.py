"""Small torch modules that exporters find easy, hard and impossible."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn


class TwoOutputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 5)

    def forward(self, image):
        features = torch.relu(self.norm(self.conv(image)))
        return {"logits": self.head(features.mean((2, 3))), "features": features}


class BranchOnData(nn.Module):
    def forward(self, x):
        return x * 2 if x.sum() > 0 else x - 1


class BranchOnWeights(nn.Module):
    """Branches on a buffer's value: the same way for every input, which torch.export does not know."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("gate", torch.ones(3))
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        return self.head(x) * 2 if self.gate.sum() > 0 else self.head(x)


class FixedBatch(nn.Module):
    """Takes one batch size in torch as well."""

    def forward(self, x):
        return x.reshape(1, 12).cumsum(1)


class FrozenBatch(nn.Module):
    """Runs at any batch in torch; a trace keeps the batch that it saw, because Python counted it."""

    def forward(self, x):
        return x + torch.tensor([float(len(x.tolist()))])


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def trained_norms() -> Callable[[nn.Module], nn.Module]:
    """Give every BatchNorm statistics as training would, so that outputs depend on the input."""

    def randomise(module: nn.Module) -> nn.Module:
        for each in module.modules():
            if isinstance(each, nn.BatchNorm2d):
                nn.init.uniform_(each.running_mean, -0.2, 0.2)
                nn.init.uniform_(each.running_var, 0.5, 1.5)
        return module

    return randomise


@pytest.fixture
def modules() -> dict[str, type[nn.Module]]:
    """The classes above by name."""
    return {kind.__name__: kind for kind in (TwoOutputs, BranchOnData, BranchOnWeights, FixedBatch, FrozenBatch)}
