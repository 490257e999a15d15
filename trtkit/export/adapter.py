"""Any module -> a module of one shape: tensors in by position, a tuple of tensors out, with a name for each."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from trtkit.export.outputs import named_tensors

__all__ = ["WRAPPED", "Adapter", "evaluating"]

WRAPPED = "module"
"""Attribute under which the adapter holds the module; exporters put it in front of names, finishing removes it."""


class Adapter(torch.nn.Module):  # type: ignore[misc]  # torch is not seen by the type checker
    """Calls a module with tensors in order and returns its tensors as a flat tuple.

    Args:
        module: Left as it is; parameters are shared.
        keywords: Names of forward's parameters to pass the tensors as, or None to pass them by position.
    """

    def __init__(self, module: torch.nn.Module, keywords: tuple[str, ...] | None = None) -> None:
        super().__init__()
        self.module = module
        self.keywords = keywords
        self.training = module.training

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return the module's tensors in the order of `named_tensors`."""
        return tuple(tensor for _, tensor in named_tensors(self.call(*tensors)))

    def call(self, *tensors: torch.Tensor) -> Any:
        """Return what the module itself returns."""
        if self.keywords is None:
            return self.module(*tensors)
        return self.module(**dict(zip(self.keywords, tensors)))

    @property
    def device(self) -> torch.device:
        """Where the module's weights are; the CPU when it has none."""
        weight = next(self.module.parameters(), None)
        return torch.device("cpu") if weight is None else weight.device


@contextmanager
def evaluating(module: torch.nn.Module) -> Iterator[None]:
    """Put a module into evaluation mode without gradients, and every submodule back as it was when the block ends."""
    before = [(each, each.training) for each in module.modules()]
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for each, training in before:
            each.training = training
