"""The random numbers that a training draws: where they are, as JSON, so that a run that was stopped goes on alike."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

__all__ = ["RandomState", "seeded"]


@dataclass(frozen=True)
class RandomState:
    """Where each generator of random numbers is: torch's on the CPU and on CUDA, NumPy's, Python's, the loader's own.

    Attributes:
        cpu, cuda, loader: States as torch gives them, in hex; None where there is no such generator.
        numpy, python: States as NumPy's legacy generator and `random` give them, as lists.
    """

    cpu: str
    cuda: str | None
    loader: str | None
    numpy: list[Any]
    python: list[Any]

    @classmethod
    def take(cls, loader: Any = None, device: torch.device | None = None) -> RandomState:
        """Return where the generators are now.

        Args:
            loader: Its `generator`, as a DataLoader may have one, is taken as well.
            device: The training's device.
        """
        own = getattr(loader, "generator", None)
        on_cuda = device is not None and device.type == "cuda"
        legacy: Any = np.random.get_state(legacy=True)
        name, keys, *rest = legacy
        version, internal, gauss = random.getstate()
        return cls(_hex(torch.get_rng_state()), _hex(torch.cuda.get_rng_state(device)) if on_cuda else None,
                   _hex(own.get_state()) if isinstance(own, torch.Generator) else None,
                   [name, keys.tolist(), *rest], [version, list(internal), gauss])

    def restore(self, loader: Any = None, device: torch.device | None = None) -> None:
        """Put the generators back to where they were."""
        torch.set_rng_state(_tensor(self.cpu))
        if self.cuda is not None and device is not None and device.type == "cuda":
            torch.cuda.set_rng_state(_tensor(self.cuda), device)
        if self.loader is not None and isinstance(getattr(loader, "generator", None), torch.Generator):
            loader.generator.set_state(_tensor(self.loader))
        name, keys, *rest = self.numpy
        np.random.set_state((name, np.array(keys, np.uint32), *rest))
        version, internal, gauss = self.python
        random.setstate((version, tuple(internal), gauss))


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch, NumPy and Python within the block; after it their generators are where they were before."""
    before = RandomState.take(device=device)
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)
    try:
        yield
    finally:
        before.restore(device=device)


def _hex(state: torch.Tensor) -> str:
    return bytes(state.numpy()).hex()


def _tensor(text: str) -> torch.Tensor:
    return torch.frombuffer(bytearray.fromhex(text), dtype=torch.uint8)
