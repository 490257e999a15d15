"""A module -> safetensors that make the same module again, also one whose sizes its factory does not know."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from trtkit._optional import require
from trtkit.export.structure import structure_of
from trtkit.files import atomic_write

__all__ = ["STRUCTURE", "save_checkpoint"]

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
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in module.state_dict().items()
               if isinstance(value, torch.Tensor)}
    metadata = {"format": "pt", STRUCTURE: json.dumps(structure_of(module))}
    atomic_write(Path(path), writer.save(tensors, metadata))
