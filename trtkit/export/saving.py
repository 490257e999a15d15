"""A module -> safetensors that make the same module again, also one whose sizes its factory does not know."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from trtkit._optional import require
from trtkit.export.structure import structure_of
from trtkit.files import atomic_write

__all__ = ["STRUCTURE", "save_checkpoint", "writable"]

STRUCTURE = "trtkit.structure"
"""Key of the sizes, as JSON, in the file's metadata; see trtkit.export.structure."""


def save_checkpoint(module: torch.nn.Module, path: Path) -> None:
    """Write weights, buffers and sizes of a module; `load_module(factory, path)` gives it back.

    Tensors that share memory, such as tied weights, are written once for each name.

    Args:
        module: Such as a pruned one; it keeps its device and mode.
        path: A .safetensors file; other programs read its tensors as those of any other.

    Raises:
        SpecError: It cannot be written; what was there before is untouched.
    """
    writer = require("safetensors.torch", extra="export", feature="Writing safetensors")
    metadata = {"format": "pt", STRUCTURE: json.dumps(structure_of(module))}
    atomic_write(Path(path), writer.save(writable(module.state_dict()), metadata))


def writable(values: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Return the tensors among `values` as safetensors takes them: on the CPU, contiguous, no memory shared by two."""
    tensors: dict[str, torch.Tensor] = {}
    memory: set[int] = set()
    for name, value in values.items():
        if isinstance(value, torch.Tensor):
            tensor = value.detach().cpu().contiguous()
            place = tensor.untyped_storage().data_ptr()
            tensors[name] = tensor.clone() if place in memory else tensor
            memory.add(place)
    return tensors
