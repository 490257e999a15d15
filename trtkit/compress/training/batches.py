"""A loader's batches: their number, their shapes, their device, and how a module takes their inputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from trtkit.compress.training.random_state import RandomState
from trtkit.compress.training.spec import Loader
from trtkit.errors import TrainingError

__all__ = ["announce", "call", "count_batches", "device_for", "device_of", "inputs_of", "shapes", "to_device"]


def call(module: nn.Module, inputs: Any) -> Any:
    """Return the module's output: a dict of inputs goes by keyword, a tuple or list in the order of forward."""
    if isinstance(inputs, Mapping):
        return module(**inputs)
    return module(*inputs) if isinstance(inputs, (tuple, list)) else module(inputs)


def inputs_of(batch: Any) -> Any:
    """Return the inputs in a batch: the first of (inputs, targets) or (inputs,), or the batch itself."""
    return batch[0] if isinstance(batch, (tuple, list)) else batch


def device_of(module: nn.Module) -> torch.device:
    """Return where the module's weights are; the CPU when it has none."""
    weight = next(module.parameters(), None)
    return torch.device("cpu") if weight is None else weight.device


def to_device(value: Any, device: torch.device) -> Any:
    """Return the same nest of tuples, lists and mappings with every tensor in it on `device`."""
    if hasattr(value, "to") and callable(value.to):  # a tensor, or a batch class such as transformers' BatchEncoding
        return value.to(device, non_blocking=True) if isinstance(value, torch.Tensor) else value.to(device)
    if isinstance(value, Mapping):
        return {key: to_device(item, device) for key, item in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(to_device(item, device) for item in value))
    if isinstance(value, (tuple, list)):
        return type(value)(to_device(item, device) for item in value)
    return value


def shapes(value: Any) -> str:
    """Return what a batch looks like, for messages, such as "((8, 3, 16, 16) float32, (8) int64)"."""
    if isinstance(value, torch.Tensor):
        return f"({', '.join(map(str, value.shape))}) {str(value.dtype).removeprefix('torch.')}"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {shapes(item)}" for key, item in value.items()) + "}"
    if isinstance(value, (tuple, list)):
        return "(" + ", ".join(map(shapes, value)) + ")"
    return type(value).__name__


def count_batches(loader: Loader) -> int:
    """Return how many batches an epoch has; a loader without a length is iterated once, its random numbers kept.

    Raises:
        TrainingError: The loader is empty, or an iterator, which gives its batches only once.
    """
    if isinstance(loader, Iterator):
        raise TrainingError(f"The loader is a {type(loader).__name__}, which gives its batches only once. Give "
                            "something that starts again each time it is iterated, such as a DataLoader or a list")
    try:
        batches = len(loader)  # type: ignore[arg-type]  # tried
    except TypeError:
        random = RandomState.take(loader)
        batches = sum(1 for _ in loader)
        random.restore(loader)
    if not batches:
        raise TrainingError("The loader is empty: it gives no batch. Check the data set's folder or filter, and "
                            "drop_last with a batch larger than the data set")
    return batches


def announce(loader: Loader, epoch: int) -> None:
    """Tell the loader, or its sampler, the number of the epoch that comes, from 0, where it asks for it."""
    told: tuple[Any, ...] = (loader, getattr(loader, "sampler", None))
    for each in told:
        if hasattr(each, "set_epoch"):
            each.set_epoch(epoch)


def device_for(name: str) -> torch.device:
    """Return the device called `name`; "auto" is CUDA where there is one, else the CPU.

    Raises:
        TrainingError: There is no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as err:
        raise TrainingError(f"Device '{name}' cannot be used: {str(err).splitlines()[0]}. Set device to \"cpu\" or "
                            "\"auto\"") from err
    return device
