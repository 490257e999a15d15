"""A module + a few batches -> the second moments of what each weight multiplies.

A layer computes Y = X W^T for rows X, which for a convolution are its patches; H = X^T X / rows tells how much an error
in W costs: |X dW^T|^2 = rows * trace(dW H dW^T).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from trtkit.compress.pruning.weights import Weight
from trtkit.compress.training.batches import call, device_of, inputs_of, to_device
from trtkit.errors import CalibrationError
from trtkit.export.adapter import evaluating
from trtkit.progress import Progress

__all__ = ["DIAGONAL_ABOVE", "columns", "second_moments", "to_columns", "to_weight"]

DIAGONAL_ABOVE = 8192
"""Columns above which only the diagonal is kept: the whole would take more than 256 MB."""
_ROWS = 4096
_PATCH_VALUES = 1 << 24


def columns(weight: Weight) -> int:
    """Return how many values one output of a layer sums over."""
    return int(weight.tensor.numel() // len(weight.tensor))


def to_columns(weight: Weight) -> torch.Tensor:
    """Return a copy of a weight, float32, shape (outputs, columns): input channels run fastest, kernel places slower.

    So four neighbouring columns are four consecutive input channels at one place of the kernel.
    """
    tensor = weight.tensor.detach().float()
    return tensor.movedim(1, -1).reshape(len(tensor), -1).clone()


def to_weight(weight: Weight, matrix: torch.Tensor) -> torch.Tensor:
    """Return what `to_columns` made in the shape of the weight."""
    shape = weight.tensor.shape
    return matrix.reshape(shape[0], *shape[2:], shape[1]).movedim(-1, 1)


def second_moments(module: nn.Module, weights: Sequence[Weight], batches: Sequence[Any],
                   progress: Progress) -> dict[str, torch.Tensor]:
    """Return the second moments by parameter name; a layer that saw no input of its own has none.

    Args:
        module: Run in evaluation mode, without gradients; it is given back as it was.
        weights: Of nn.Conv1d, nn.Conv2d, nn.Linear, or the joint projection of nn.MultiheadAttention.
        batches: Each is (inputs, targets), (inputs,), or inputs alone where they are a tensor or a mapping by name.
        progress: Told batches done.

    Returns:
        float32, (columns, columns), or the diagonal (columns,) of a layer with more than DIAGONAL_ABOVE.

    Raises:
        CalibrationError: A layer's inputs are not finite.
    """
    found: dict[str, torch.Tensor] = {}
    device = device_of(module)
    with evaluating(module), ExitStack() as hooks, torch.no_grad():
        for weight in weights:
            hooks.callback(weight.module.register_forward_pre_hook(_adder(weight, found), with_kwargs=True).remove)
        for number, batch in enumerate(batches):
            progress("Second moments", number, len(batches))
            call(module, to_device(inputs_of(batch), device))
    progress("Second moments", len(batches), len(batches))
    for name, moments in found.items():
        if not bool(torch.isfinite(moments).all()):
            raise CalibrationError(f"What '{name}' multiplies is not finite on the given batches. Check their "
                                   "preprocessing, and the module in evaluation mode")
    return found


def _adder(weight: Weight, found: dict[str, torch.Tensor]) -> Callable[[nn.Module, Any, Any], None]:
    """Return the hook that adds what a module is given to the moments of its weight."""
    size = columns(weight)

    def add(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        for rows in _rows(module, args, kwargs, size):
            rows = rows.float()
            found[weight.name] = found.get(weight.name, 0) + (
                rows.T @ rows if size <= DIAGONAL_ABOVE else rows.square().sum(0))

    return add


def _rows(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], size: int) -> Iterator[torch.Tensor]:
    """Yield rows of `size` columns, evenly spaced ones where there are many more than columns."""
    if isinstance(module, nn.MultiheadAttention):
        query, key, value = (*args, *(kwargs[name] for name in ("query", "key", "value")[len(args):]))[:3]
        if query is key is value:  # else one H does not fit the three projections
            yield _thinned(query.reshape(-1, size), size)
        return
    data = args[0] if args else next(iter(kwargs.values()))
    if isinstance(module, (nn.Conv1d, nn.Conv2d)):
        yield from _patches(module, data, size)
    else:
        yield _thinned(data.reshape(-1, size), size)


def _thinned(rows: torch.Tensor, size: int, chunks: int = 1) -> torch.Tensor:
    step = len(rows) * chunks // max(_ROWS, 2 * size)
    return rows[::step | 1]  # odd, so that it does not walk down one column of a picture


def _patches(module: nn.Conv1d | nn.Conv2d, data: torch.Tensor, size: int) -> Iterator[torch.Tensor]:
    """Yield the patches of a convolution's input, input channels fastest."""
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    data = functional.pad(data, module._reversed_padding_repeated_twice, mode=mode)
    kernel, dilation, stride = module.kernel_size, module.dilation, module.stride
    if isinstance(module, nn.Conv1d):
        data, kernel, dilation, stride = data.unsqueeze(-2), (1, *kernel), (1, *dilation), (1, *stride)
    for sample in data.split(max(1, _PATCH_VALUES // (size * data[0, 0].numel()))):
        flat = functional.unfold(sample, kernel, dilation=dilation, stride=stride)
        rows = flat.view(len(sample), sample.shape[1], -1, flat.shape[-1]).permute(0, 3, 2, 1).reshape(-1, size)
        yield _thinned(rows, size, -(-len(data) // len(sample)))
