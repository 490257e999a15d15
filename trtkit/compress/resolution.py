"""A module and input sizes -> its score and cost at each, with the preprocessing and the example to export it with.

MACs of a convolutional network fall with the square of the side: the cheapest compression there is, where the task
bears it. What was trained at one size mostly scores better at a smaller one after some training there.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import TypeAlias

import torch
from torch import nn
from torch.nn import functional

from trtkit.compress.size import count
from trtkit.errors import SpecError
from trtkit.export.adapter import evaluating
from trtkit.preprocess import Preprocess
from trtkit.progress import Progress, silent

__all__ = ["AtSize", "Size", "at_size", "evaluate_sizes", "preprocess_at"]

Size: TypeAlias = int | tuple[int, int]
"""Side of a square, or height and width, in pixels."""


@dataclass(frozen=True)
class AtSize:
    """A module at one input size.

    Attributes:
        size: Height and width in pixels.
        score: As the caller's evaluation gives it, higher is better.
        macs: Multiply-accumulates of one image, in convolutions, linear layers and attention.
        module: The one that was given; a copy where it was trained or its position embeddings were interpolated.
        example: One input of this size; `export_onnx(row.module, row.example)` exports it.
        preprocess: The one that was given, at this size; None when none was.
    """

    size: tuple[int, int]
    score: float
    macs: int
    module: nn.Module
    example: torch.Tensor
    preprocess: Preprocess | None


def evaluate_sizes(module: nn.Module, sizes: Iterable[Size], evaluate_at: Callable[[nn.Module, tuple[int, int]], float],
                   *, example: torch.Tensor, preprocess: Preprocess | None = None,
                   finetune_at: Callable[[nn.Module, tuple[int, int]], None] | None = None,
                   progress: Progress = silent) -> tuple[AtSize, ...]:
    """Return a row for each size, in their order.

    Args:
        module: Stays as it is.
        sizes: At least one.
        evaluate_at: (module in evaluation mode, size) -> score, on images prepared at that size.
        example: One or more inputs, shape (N, C, H, W), or (N, H, W, C) where `preprocess` says so; resized to each
            size.
        preprocess: How a picture becomes an input today.
        finetune_at: (copy of the module, size) trains the copy in place before it is scored; None evaluates only.
        progress: Told of each size.

    Raises:
        SpecError: There is no size, or the module does not take one of them.
    """
    wanted = [_pair(size) for size in sizes]
    if not wanted:
        raise SpecError("No input size to evaluate. Give at least one, such as 192")
    channels_last = preprocess is not None and preprocess.layout == "nhwc"
    examples = [_resized(example, size, channels_last) for size in wanted]
    # All are asked before one is trained.
    ready = [at_size(module, one, channels_last=channels_last) for one in examples]
    rows = []
    for number, (size, one, candidate) in enumerate(zip(wanted, examples, ready)):
        progress("Input sizes", number, len(wanted))
        if finetune_at is not None:
            candidate = copy.deepcopy(candidate) if candidate is module else candidate
            finetune_at(candidate, size)
        with evaluating(candidate):
            score = float(evaluate_at(candidate, size))
        rows.append(AtSize(size, score, count(candidate, one).macs, candidate, one,
                           None if preprocess is None else preprocess_at(preprocess, size)))
    progress("Input sizes", len(wanted), len(wanted))
    return tuple(rows)


def preprocess_at(preprocess: Preprocess, size: Size) -> Preprocess:
    """Return the same preprocessing at another size; the side that is cut from, `resize_to`, keeps its proportion."""
    size = _pair(size)
    side = preprocess.resize_to
    if side is not None:
        side = max(round(side * max(size) / max(preprocess.size)), *size)
    return replace(preprocess, size=size, resize_to=side)


def at_size(module: nn.Module, example: torch.Tensor, *, channels_last: bool = False) -> nn.Module:
    """Return a module that takes inputs of the example's size.

    Args:
        module: Stays as it is.
        example: Input of the wanted size, shape (N, C, H, W).
        channels_last: The example's shape is (N, H, W, C).

    Returns:
        The module itself where it takes the example. Otherwise a copy whose position embeddings are interpolated to
        this size once, by the `interpolate_pos_encoding` that transformers' vision models have, so that it exports
        with constants and trains from there.

    Raises:
        SpecError: It takes the example neither way.
    """
    refusal = _refusal(module, example)
    if refusal is None:
        return module
    size = _size_of(example, channels_last)
    resized = copy.deepcopy(module)
    if _interpolate_positions(resized, size) and _refusal(resized, example) is None:
        return resized
    raise SpecError(f"{type(module).__name__} does not take an input of {size[0]}x{size[1]} pixels: {refusal}. Give a "
                    "size that fits its strides and patches; where its weights are made for one size, pool before they "
                    "are used or interpolate them in the factory")


def _interpolate_positions(module: nn.Module, size: tuple[int, int]) -> bool:
    found = [each for each in module.modules() if hasattr(each, "interpolate_pos_encoding")
             and isinstance(getattr(each, "position_embeddings", None), nn.Parameter)]
    for each in found:
        positions = each.position_embeddings
        # No row of it is used: only its size, which must differ from that of the positions to have them interpolated.
        rows = positions.new_empty(1, 1, positions.shape[-1])
        with torch.no_grad():
            each.position_embeddings = nn.Parameter(each.interpolate_pos_encoding(rows, *size).contiguous())
        for holder in (each, *each.children()):
            if hasattr(holder, "image_size"):
                holder.image_size = size
    config = getattr(module, "config", None)
    if found and config is not None:
        config.image_size = size
    return bool(found)


def _refusal(module: nn.Module, example: torch.Tensor) -> str | None:
    """Return what the module's forward says against the example; None where it takes it."""
    weight = next(module.parameters(), example)
    try:
        with evaluating(module), torch.no_grad():
            module(example.to(weight.device))
    except (RuntimeError, ValueError, AssertionError, IndexError, TypeError) as err:
        return (str(err).splitlines() or [type(err).__name__])[0].rstrip(".")
    return None


def _resized(example: torch.Tensor, size: tuple[int, int], channels_last: bool) -> torch.Tensor:
    images = example.movedim(-1, 1) if channels_last else example
    if images.ndim != 4:
        raise SpecError(f"The example has shape {tuple(example.shape)}. Give images of shape (N, C, H, W)")
    resized = functional.interpolate(images[:1].float(), size, mode="bilinear", antialias=True).to(example.dtype)
    return resized.movedim(1, -1).contiguous() if channels_last else resized


def _size_of(example: torch.Tensor, channels_last: bool) -> tuple[int, int]:
    height, width = example.shape[1:3] if channels_last else example.shape[2:4]
    return height, width


def _pair(size: Size) -> tuple[int, int]:
    height, width = (size, size) if isinstance(size, int) else size
    if min(height, width) < 1:
        raise SpecError(f"Input size {height}x{width} is not possible. Give pixels, at least 1")
    return height, width
