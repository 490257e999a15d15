"""A batch -> a module's forward, and what a module was called with: so that a teacher gets its student's inputs."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

__all__ = ["Call", "call", "device_of", "inputs_of", "last_call", "moved"]


@dataclass
class Call:
    """The last forward of a module: what went in and what came out; `made` is False until there was one."""

    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    output: Any = None
    made: bool = False


def inputs_of(batch: Any) -> Any:
    """Return the inputs in a batch: the first of (inputs, targets) or (inputs,), or the batch itself."""
    return batch[0] if isinstance(batch, (tuple, list)) else batch


def call(module: nn.Module, inputs: Any) -> Any:
    """Return the module's output: a dict of inputs goes by keyword, a tuple or list in the order of forward."""
    if isinstance(inputs, Mapping):
        return module(**inputs)
    return module(*inputs) if isinstance(inputs, (tuple, list)) else module(inputs)


def device_of(module: nn.Module) -> torch.device:
    """Return where the module's weights are; the CPU when it has none."""
    return next(itertools.chain(module.parameters(), module.buffers()), torch.empty(0)).device


def moved(inputs: Any, device: torch.device) -> Any:
    """Return the tensors in a tuple, list or dict of inputs, or a lone one, on a device."""
    if isinstance(inputs, Mapping):
        return {name: moved(value, device) for name, value in inputs.items()}
    if isinstance(inputs, (tuple, list)):
        return tuple(moved(value, device) for value in inputs)
    return inputs.to(device) if isinstance(inputs, torch.Tensor) else inputs


@contextmanager
def last_call(module: nn.Module) -> Iterator[Call]:
    """Yield a record of the module's last forward within the block."""
    record = Call()

    def keep(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        record.args, record.kwargs, record.output, record.made = args, kwargs, output, True

    handle = module.register_forward_hook(keep, with_kwargs=True)
    try:
        yield record
    finally:
        handle.remove()
