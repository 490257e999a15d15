"""What torch itself computes at each set of sizes: the numbers that every exporter's model is held against."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from trtkit.errors import ExportError
from trtkit.export.adapter import Adapter
from trtkit.export.exporters import reason
from trtkit.export.inputs import Inputs
from trtkit.export.options import ExportOptions
from trtkit.export.outputs import named_tensors
from trtkit.tensors import Array

__all__ = ["Case", "Reference", "take_reference"]


@dataclass(frozen=True)
class Case:
    """One set of inputs and torch's outputs for it.

    Attributes:
        label: Such as "batch 2".
        sizes: Size of each dynamic dimension, by name.
        feeds, outputs: Arrays by tensor name.
        fixed: Whether these are the sizes of a static model.
    """

    label: str
    sizes: Mapping[str, int]
    feeds: Mapping[str, Array]
    outputs: Mapping[str, Array]
    fixed: bool


@dataclass(frozen=True)
class Reference:
    """Torch's own results.

    Attributes:
        cases: At least one.
        refusals: Sizes at which torch itself fails, with its reason, by the name of the dimension.
    """

    cases: tuple[Case, ...]
    refusals: Mapping[str, str] = field(default_factory=dict)

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the outputs, in the module's order."""
        return tuple(self.cases[0].outputs)

    def static(self) -> Reference:
        """Return only what a model with fixed sizes can be held against."""
        return Reference(tuple(case for case in self.cases if case.fixed), self.refusals)

    def shapes(self) -> dict[str, tuple[int | str, ...]]:
        """Return the shape of each output; a dimension that varies carries a name.

        The name is that of the input dimension which has its size in every case, else "OUTPUT_dimN".
        """
        return {name: tuple(self._dimension(name, axis) for axis in range(self.cases[0].outputs[name].ndim))
                for name in self.outputs}

    def _dimension(self, output: str, axis: int) -> int | str:
        sizes = [case.outputs[output].shape[axis] for case in self.cases]
        if len(set(sizes)) == 1:
            return int(sizes[0])
        same = (name for name in self.cases[0].sizes if sizes == [case.sizes[name] for case in self.cases])
        return next(same, f"{output}_dim{axis}")


def take_reference(adapter: Adapter, inputs: Inputs, options: ExportOptions) -> Reference:
    """Run the module at each batch size, at doubled (else halved) further sizes, and on negated values.

    Raises:
        ExportError: The module fails on its own example, is not deterministic, or returns no tensors.
    """
    example = inputs.resized({options.batch: 1}) if options.batch in inputs.sizes else inputs
    label = f"batch {_batch_of(example)}"
    names = _output_names(adapter, example, inputs, options)
    first = _run(adapter, example, names)
    _refuse_random(first, _run(adapter, example, names))
    cases = [Case(label, example.sizes, example.feeds(), first, True)]
    refusals: dict[str, str] = {}
    negated = example.varied(0).negated()
    flipped = _attempt(adapter, negated, names)
    if not isinstance(flipped, str):
        cases.append(Case(f"{label}, negated", negated.sizes, negated.feeds(), flipped, True))
    for seed, (dimension, sizes) in enumerate(_other_sizes(inputs, options), start=1):
        for size in sizes:
            other = example.resized({dimension: size}).varied(seed)
            result = _attempt(adapter, other, names)
            if not isinstance(result, str):
                cases.append(Case(f"{dimension} {size}", other.sizes, other.feeds(), result, False))
                break
        else:
            refusals.setdefault(dimension, f"torch itself does not run at {dimension} {size}: {result}")
    return Reference(tuple(cases), refusals)


def _other_sizes(inputs: Inputs, options: ExportOptions) -> list[tuple[str, tuple[int, ...]]]:
    """Return the sizes to take for each dynamic dimension; of several, the first one that torch runs."""
    batches = [(options.batch, (size,)) for size in options.batches if size > 1 and options.batch in inputs.sizes]
    further = [(name, (2 * size, max(1, size // 2))) for name, size in inputs.sizes.items() if name != options.batch]
    return [(name, sizes) for name, sizes in (*batches, *further) if name is not None]


def _batch_of(inputs: Inputs) -> int:
    return next((int(tensor.shape[0]) for tensor in inputs.tensors if tensor.ndim), 1)


def _output_names(adapter: Adapter, example: Inputs, inputs: Inputs, options: ExportOptions) -> tuple[str, ...]:
    try:
        found = tuple(name for name, _ in named_tensors(adapter.call(*_moved(adapter, example))))
    except (RuntimeError, ValueError, TypeError, IndexError, KeyError, AttributeError, AssertionError) as err:
        shapes = ", ".join(f"{name}{tuple(t.shape)}" for name, t in zip(example.names, example.tensors))
        raise ExportError(f"{type(adapter.module).__name__} fails on its own example in torch, with {shapes}: "
                          f"{reason(err)}. Check the inputs' shapes, dtypes and order") from err
    if options.output_names is not None:
        if len(options.output_names) != len(found):
            raise ExportError(f"{len(options.output_names)} output names for {len(found)} outputs. "
                              f"The module returns: {', '.join(found)}")
        found = options.output_names
    return tuple(f"{name}_out" if name in inputs.names else name for name in found)


def _moved(adapter: Adapter, inputs: Inputs) -> tuple[torch.Tensor, ...]:
    return tuple(tensor.to(adapter.device) for tensor in inputs.tensors)


def _run(adapter: Adapter, inputs: Inputs, names: Sequence[str]) -> dict[str, Array]:
    tensors = adapter(*(tensor.clone() for tensor in _moved(adapter, inputs)))
    if len(tensors) != len(names):
        raise ExportError(f"{type(adapter.module).__name__} returns {len(tensors)} tensors after {len(names)} before. "
                          "Return the same outputs for every input")
    return {name: _array(name, tensor) for name, tensor in zip(names, tensors)}


def _attempt(adapter: Adapter, inputs: Inputs, names: Sequence[str]) -> dict[str, Array] | str:
    try:
        return _run(adapter, inputs, names)
    except (RuntimeError, ValueError, TypeError, IndexError, AssertionError) as err:
        return reason(err)


def _array(name: str, tensor: torch.Tensor) -> Array:
    if tensor.dtype == torch.bfloat16:
        raise ExportError(f"Output '{name}' is bfloat16. Export the module in float32; a lowering chooses the "
                          "precision")
    array: Array = tensor.detach().cpu().contiguous().numpy()
    return array


def _refuse_random(first: Mapping[str, Array], second: Mapping[str, Array]) -> None:
    for name, array in first.items():
        again = second[name]
        if array.shape != again.shape or not np.allclose(array, again, rtol=1e-3, atol=1e-5, equal_nan=True):
            raise ExportError(f"Output '{name}' differs between two runs in torch on the same input, so nothing can be "
                              "checked. Remove what is random from forward, such as dropout that ignores eval()")
