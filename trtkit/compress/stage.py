"""A model between two steps of compression, as what is on disk: each step loads it, and writes the next one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from trtkit.compress.distillation.scaling import scaled
from trtkit.compress.pruning.masks import Masks
from trtkit.compress.resolution import at_size, preprocess_at
from trtkit.compress.training.named import loader_named
from trtkit.compress.training.random_state import seeded
from trtkit.compress.training.resized import resized
from trtkit.compress.training.spec import Loader
from trtkit.export.loading import load_module, load_weights
from trtkit.preprocess import Preprocess

__all__ = ["Stage"]


@dataclass(frozen=True)
class Stage:
    """What makes a module, and how its input looks.

    Attributes:
        factory: "pkg.module:name" or "file.py:name".
        weights: In it; random ones when None.
        shape: Of an example input, (N, C, H, W) or, where `preprocess` says so, (N, H, W, C).
        input_name: Of that input.
        preprocess: How a picture becomes it; None when none is known.
        width, depth: Factors on the channels and layers that the factory's module has.
        is_resized: Whether the shape is another than the factory was made for; `weights` are of this shape.
        is_sparse: Whether zeros among the weights are to stay zeros.
    """

    factory: str
    weights: Path | None
    shape: tuple[int, ...]
    input_name: str = "input"
    preprocess: Preprocess | None = None
    width: float = 1.0
    depth: float = 1.0
    is_resized: bool = False
    is_sparse: bool = False

    def load(self) -> nn.Module:
        """Return the module, in evaluation mode; random weights are the same each time.

        Raises:
            ExportError: The factory or the weights fail.
            SpecError: The module takes no input of this shape, or has no `config` to scale.
        """
        with seeded(0, torch.device("cpu")):
            module = load_module(self.factory)
            if (self.width, self.depth) != (1.0, 1.0):
                module = scaled(module, width=self.width, depth=self.depth).eval()
        if self.is_resized:
            module = self.fitted(module)
        if self.weights is not None:
            load_weights(module, self.weights)
        return module

    def fitted(self, module: nn.Module) -> nn.Module:
        """Return a module that takes this stage's inputs: itself where it does, else a copy.

        Raises:
            SpecError: It takes none of this size.
        """
        return at_size(module, torch.zeros(self.shape), channels_last=self._channels_last)

    def resized(self, size: tuple[int, int]) -> Stage:
        """Return this stage with inputs of another size."""
        height, width = size
        batch, *rest = self.shape
        shape = (batch, height, width, rest[-1]) if self._channels_last else (batch, rest[0], height, width)
        return replace(self, shape=shape, is_resized=True,
                       preprocess=None if self.preprocess is None else preprocess_at(self.preprocess, size))

    def loader(self, name: str) -> Loader:
        """Return the loader of this name; its images get the size of this stage, where that has changed.

        Raises:
            TrainingError: It fails or cannot be iterated over.
            ExportError: There is none of that name.
        """
        found = loader_named(name)
        if not self.is_resized:
            return found
        size = self.shape[1:3] if self._channels_last else self.shape[2:4]
        return resized(found, (size[0], size[1]), channels_last=self._channels_last)

    def masks(self, module: nn.Module) -> Masks | None:
        """Return what keeps the zeros of a sparse module through training."""
        return Masks.of(module) if self.is_sparse else None

    @property
    def _channels_last(self) -> bool:
        return self.preprocess is not None and self.preprocess.layout == "nhwc"
