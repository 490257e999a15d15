"""The sizes of a module -> JSON, and a module of the same code and other sizes -> those sizes.

A pruned module runs the code that its factory made; only the sizes of its tensors are others, and the numbers that its
layers keep of them (out_channels, groups, num_features, all_head_size). With these beside the weights, the factory and
the file make the pruned module again, without what pruned it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from trtkit.errors import ExportError

__all__ = ["apply_structure", "structure_of"]


def structure_of(module: nn.Module) -> dict[str, Any]:
    """Return the sizes in a module, as JSON takes them.

    Returns:
        "tensors": name -> shape, of all parameters and persistent buffers; "numbers": name of a submodule -> its
        public attributes that are whole numbers or sequences of them.
    """
    numbers = {name: _numbers(each) for name, each in module.named_modules()}
    return {"tensors": {name: list(value.shape) for name, value in _tensors(module).items()},
            "numbers": {name: values for name, values in numbers.items() if values}}


def apply_structure(module: nn.Module, structure: Mapping[str, Any]) -> None:
    """Give a module the sizes of another one that runs the same code.

    A tensor of another size is replaced by zeros; tied parameters stay tied. Numbers are set in the submodules that
    hold such a tensor, themselves or below them, and nowhere else: a factory may be told another image size.

    Args:
        module: Changed in place; not at all when an error is raised.
        structure: What `structure_of` returned for the other one.

    Raises:
        ExportError: The structure is malformed, or of another module: names or numbers of dimensions differ.
    """
    try:
        shapes = {str(name): tuple(map(int, shape)) for name, shape in structure["tensors"].items()}
        numbers = {str(name): dict(values) for name, values in structure["numbers"].items()}
        if min((size for shape in shapes.values() for size in shape), default=0) < 0:
            raise ValueError("a size is negative")
    except (KeyError, TypeError, ValueError, AttributeError) as err:
        raise ExportError(f"The structure is malformed ({type(err).__name__}: {err}). Save the module again with "
                          "trtkit.export.save_checkpoint") from err
    changed = _changed(module, shapes)
    if not changed:
        return
    holders = {name[:place] for name in changed for place, letter in enumerate(name) if letter == "."} | {""}
    for name, each in module.named_modules():
        if name in holders:
            for attribute, value in numbers.get(name, {}).items():
                _set_number(each, attribute, value)
    _resize(module, changed)


def _changed(module: nn.Module, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Return the new shape of each tensor that has another one."""
    own = _tensors(module)
    strange = sorted(set(own) ^ set(shapes))
    if strange:
        raise ExportError(f"The structure is not of {type(module).__name__}: {len(strange)} names differ, such as "
                          f"{', '.join(strange[:3])}. Use the factory that the module was made with")
    for name, value in own.items():
        if value.ndim != len(shapes[name]):
            raise ExportError(f"The structure is not of {type(module).__name__}: '{name}' has {value.ndim} dimensions "
                              f"{tuple(value.shape)} here and {len(shapes[name])} there {shapes[name]}. "
                              "Use the factory that the module was made with")
    return {name: shape for name, shape in shapes.items() if own[name].shape != shape}


def _resize(module: nn.Module, changed: Mapping[str, tuple[int, ...]]) -> None:
    made: dict[int, torch.Tensor] = {}
    for name, shape in changed.items():
        place, _, leaf = name.rpartition(".")
        owner = module.get_submodule(place)
        old = getattr(owner, leaf)
        if id(old) not in made:
            zeros = torch.zeros(shape, dtype=old.dtype, device=old.device)
            made[id(old)] = nn.Parameter(zeros, old.requires_grad) if isinstance(old, nn.Parameter) else zeros
        setattr(owner, leaf, made[id(old)])


def _tensors(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value for name, value in module.state_dict(keep_vars=True).items() if isinstance(value, torch.Tensor)}


def _numbers(module: nn.Module) -> dict[str, Any]:
    return {name: list(value) if isinstance(value, (tuple, list)) else value for name, value in vars(module).items()
            if not name.startswith("_") and _is_number(value)}


def _set_number(module: nn.Module, name: str, value: Any) -> None:
    """Set an attribute that is a number here as well, and a sequence as the kind of sequence that it is."""
    own = vars(module).get(name)
    if _is_number(own) and _is_number(value) and isinstance(own, (tuple, list)) == isinstance(value, list):
        setattr(module, name, type(own)(value) if isinstance(own, (tuple, list)) else value)


def _is_number(value: Any) -> bool:
    if isinstance(value, (tuple, list)):
        return bool(value) and all(map(_is_number, value))
    return isinstance(value, int) and not isinstance(value, bool)
