"""Whatever a forward returns -> named tensors: tensors, tuples, dicts, dataclasses and ModelOutputs, nested or not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import torch

from trtkit.errors import ExportError

__all__ = ["named_tensors"]


def named_tensors(value: Any) -> tuple[tuple[str, torch.Tensor], ...]:
    """Return the tensors in `value` with their names, in order.

    A lone tensor is "output", those of a sequence are "output_0", "output_1"; keys and field names are names, and
    nested ones are joined by "_". None and plain numbers or strings are left out: they are constants of the trace.

    Raises:
        ExportError: There is no tensor, two would have one name, or something is neither (such as a cache object).
    """
    found = tuple((name or "output", tensor) for name, tensor in _leaves(value, ""))
    names = [name for name, _ in found]
    if not found:
        raise ExportError(f"The module returns {type(value).__name__} with no tensor in it. Return at least one")
    if len(set(names)) != len(names):
        raise ExportError(f"The module's outputs flatten to repeated names: {', '.join(names)}. "
                          "Return a dict with distinct keys")
    return found


def _leaves(value: Any, name: str) -> Iterator[tuple[str, torch.Tensor]]:
    if isinstance(value, torch.Tensor):
        yield name, value
    elif value is None or isinstance(value, (bool, int, float, str)):
        return
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _leaves(item, _joined(name, str(key)))
    elif is_dataclass(value) and not isinstance(value, type):
        for each in fields(value):
            yield from _leaves(getattr(value, each.name), _joined(name, each.name))
    elif hasattr(value, "_fields"):
        for key in value._fields:
            yield from _leaves(getattr(value, key), _joined(name, key))
    elif isinstance(value, (tuple, list)):
        for index, item in enumerate(value):
            yield from _leaves(item, name if len(value) == 1 else _joined(name or "output", str(index)))
    else:
        raise ExportError(f"The module returns a {type(value).__name__} as '{name or 'output'}', which holds no "
                          "tensors by name. Turn it off (such as use_cache=False), or return tensors only")


def _joined(name: str, key: str) -> str:
    return f"{name}_{key}" if name else key
