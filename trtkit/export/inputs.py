"""An example -> named input tensors, and the same inputs at other sizes for the checks."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import torch

from trtkit.errors import SpecError
from trtkit.export.options import ExportOptions
from trtkit.tensors import Array

__all__ = ["Example", "Inputs", "named_inputs"]

Example: TypeAlias = torch.Tensor | Array | Sequence[Any] | Mapping[str, Any]


@dataclass(frozen=True)
class Inputs:
    """The inputs of a module.

    Attributes:
        names: In the order of the model.
        tensors: One example each, on the CPU.
        axes: Dynamic dimensions of each input, axis -> name.
        by_keyword: Whether the names are those of forward's parameters, and are passed as such.
    """

    names: tuple[str, ...]
    tensors: tuple[torch.Tensor, ...]
    axes: tuple[Mapping[int, str], ...]
    by_keyword: bool

    @property
    def sizes(self) -> dict[str, int]:
        """Size of each dynamic dimension in the example, by its name."""
        return {name: tensor.shape[axis] for tensor, axes in zip(self.tensors, self.axes)
                for axis, name in axes.items()}

    def static(self, batch: str | None) -> Inputs:
        """Return the same inputs with all sizes fixed, the batch at 1."""
        alone = self.resized({batch: 1}) if batch is not None else self
        return replace(alone, axes=tuple({} for _ in self.names))

    def resized(self, sizes: Mapping[str, int]) -> Inputs:
        """Return the example cut or repeated to other sizes of its dynamic dimensions."""
        resized = []
        for tensor, axes in zip(self.tensors, self.axes):
            for axis, name in axes.items():
                wanted = sizes.get(name, tensor.shape[axis])
                tensor = tensor.index_select(axis, torch.arange(wanted) % tensor.shape[axis])
            resized.append(tensor.contiguous())
        return replace(self, tensors=tuple(resized))

    def varied(self, seed: int) -> Inputs:
        """Return other values of the same kind: floats with noise and every second row negated, others rolled.

        Negation and noise take the other side of branches on the data, which a trace would have frozen.
        """
        generator = torch.Generator().manual_seed(seed)
        return replace(self, tensors=tuple(_varied(tensor, generator) for tensor in self.tensors))

    def negated(self) -> Inputs:
        """Return the example with the floats negated."""
        return replace(self, tensors=tuple(-t if t.is_floating_point() else t for t in self.tensors))

    def feeds(self) -> dict[str, Array]:
        """Return the tensors as numpy arrays by name."""
        return {name: tensor.numpy() for name, tensor in zip(self.names, self.tensors)}


def named_inputs(module: torch.nn.Module, example: Example, options: ExportOptions) -> Inputs:
    """Return the example as named tensors.

    Args:
        module: Its forward's parameters name the tensors of a sequence.
        example: One tensor ("input"), a sequence in forward's order, or tensors by name. Names that are forward's
            parameters are passed by keyword; if none is, the tensors are passed in order.
        options: Names the dynamic dimensions.

    Raises:
        SpecError: There is nothing, something is no tensor, only some names are forward's, or a dynamic dimension
            does not exist.
    """
    named, by_keyword = _named(module, example)
    if not named:
        raise SpecError("The example holds no tensor. Give one tensor for each input")
    tensors = {name: _as_tensor(name, value) for name, value in named.items()}
    unknown = sorted(set(options.dynamic_axes) - set(tensors))
    if unknown:
        raise SpecError(f"dynamic_axes names input '{unknown[0]}'. The inputs are: {', '.join(tensors)}")
    axes = tuple(_axes(name, tensor, options) for name, tensor in tensors.items())
    inputs = Inputs(tuple(tensors), tuple(tensors.values()), axes, by_keyword)
    for name, tensor, dynamic in zip(inputs.names, inputs.tensors, inputs.axes):
        for axis, symbol in dynamic.items():
            if tensor.shape[axis] != inputs.sizes[symbol]:
                raise SpecError(f"Dimension '{symbol}' has size {tensor.shape[axis]} in input '{name}' and "
                                f"{inputs.sizes[symbol]} elsewhere. One name is one size")
    return inputs


def _named(module: torch.nn.Module, example: Example) -> tuple[dict[str, Any], bool]:
    if isinstance(example, (torch.Tensor, np.ndarray)):
        return {"input": example}, False
    parameters = [p for p in inspect.signature(module.forward).parameters.values()]
    takes = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.POSITIONAL_ONLY)]
    if not isinstance(example, Mapping):
        if len(example) == 1:
            return {"input": example[0]}, False
        return {takes[i] if i < len(takes) else f"input_{i}": value for i, value in enumerate(example)}, False
    keywords = {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    strangers = [name for name in example if name not in keywords]
    if strangers and len(strangers) < len(example):
        raise SpecError(f"Input '{strangers[0]}' is no parameter of {type(module).__name__}.forward while others are. "
                        f"It takes: {', '.join(sorted(keywords))}")
    return dict(example), not strangers


def _as_tensor(name: str, value: Any) -> torch.Tensor:
    if isinstance(value, np.ndarray):
        value = torch.from_numpy(np.ascontiguousarray(value))
    if not isinstance(value, torch.Tensor):
        raise SpecError(f"Example of input '{name}' is a {type(value).__name__}. Give a torch tensor or numpy array; "
                        "wrap the module where it takes anything else")
    if value.dtype == torch.bfloat16:
        raise SpecError(f"Example of input '{name}' is bfloat16, which numpy and ONNX Runtime on the CPU do not take. "
                        "Export the module in float32; a lowering chooses the precision")
    if 0 in value.shape:
        raise SpecError(f"Example of input '{name}' is empty: {tuple(value.shape)}. Give at least one element")
    return value.detach().cpu()


def _axes(name: str, tensor: torch.Tensor, options: ExportOptions) -> dict[int, str]:
    axes = {0: options.batch} if options.batch is not None and tensor.ndim else {}
    axes.update(options.dynamic_axes.get(name, {}))
    for axis in axes:
        if not 0 <= axis < tensor.ndim:
            raise SpecError(f"Dynamic axis {axis} of input '{name}' does not exist: its shape is "
                            f"{tuple(tensor.shape)}. Axes count from 0")
    return axes


def _varied(tensor: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    if not tensor.is_floating_point():
        return tensor.roll(1, dims=-1) if tensor.ndim else tensor
    spread = float(tensor.float().std()) if tensor.numel() > 1 else 0.0
    noise = torch.randn(tensor.shape, generator=generator) * (0.5 * spread or 1.0)
    varied = tensor + noise.to(tensor.dtype)
    if tensor.ndim and tensor.shape[0] > 1:
        varied[1::2] *= -1
    return varied
