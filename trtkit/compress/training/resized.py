"""A loader of images of one size -> the same batches at another size."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch.nn import functional

from trtkit.compress.training.spec import Loader

__all__ = ["resized"]


def resized(loader: Loader, size: tuple[int, int], *, channels_last: bool = False) -> Loader:
    """Return a loader whose images have another size.

    Every tensor of four dimensions in a batch, masks as targets included, is resized bilinearly with antialiasing,
    floats alone; what has the size already stays as it is. Where it matters, let the loader itself read the pictures
    at that size.

    Args:
        loader: Batches as nests of tensors.
        size: Height and width in pixels.
        channels_last: Images have the shape (N, H, W, C), else (N, C, H, W).
    """
    return _Resized(loader, size, channels_last)


class _Resized:
    """Passes on what training asks a loader for: its length, its sampler, its random numbers."""

    def __init__(self, loader: Loader, size: tuple[int, int], channels_last: bool) -> None:
        self._loader, self._size, self._channels_last = loader, size, channels_last

    def __iter__(self) -> Iterator[Any]:
        return (self._fitted(batch) for batch in self._loader)

    def __len__(self) -> int:
        return len(self._loader)  # type: ignore[arg-type]  # a loader without one raises, as it would alone

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def _fitted(self, value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return self._image(value) if value.ndim == 4 and value.is_floating_point() else value
        if isinstance(value, Mapping):
            return {key: self._fitted(item) for key, item in value.items()}
        return type(value)(map(self._fitted, value)) if type(value) in (tuple, list) else value

    def _image(self, tensor: torch.Tensor) -> torch.Tensor:
        images = tensor.movedim(-1, 1) if self._channels_last else tensor
        if tuple(images.shape[2:]) == self._size:
            return tensor
        fitted = functional.interpolate(images, self._size, mode="bilinear", antialias=True)
        return fitted.movedim(1, -1).contiguous() if self._channels_last else fitted
