"""Name of a factory + file of weights -> module, ready to export."""

from __future__ import annotations

import json
import pickle
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from trtkit._optional import require
from trtkit.errors import ExportError
from trtkit.export.named import find_named
from trtkit.export.saving import STRUCTURE
from trtkit.export.structure import apply_structure

__all__ = ["load_module", "load_weights"]

_NESTED_UNDER = ("state_dict", "model_state_dict", "model")
"""Keys under which training scripts keep the weights beside their own state."""

_SHOWN = 5


def load_module(factory: str, weights: Path | None = None) -> torch.nn.Module:
    """Return the module that `factory` makes, with `weights` in it, in evaluation mode.

    Args:
        factory: "pkg.module:name" (the current folder is importable) or "path/to/file.py:name"; the name is a function
            or class that is called without arguments, or a module as it is. A name may have dots.
        weights: A safetensors file, or one that torch.load(weights_only=True) reads; random weights when None.

    Raises:
        SpecError: `factory` is not of either form.
        ExportError: It cannot be imported, fails, or makes no module; the weights are unreadable or do not fit.
    """
    with find_named(factory) as found:
        module = _made(found, factory)
    if weights is not None:
        load_weights(module, weights)
    return module.eval()


def load_weights(module: torch.nn.Module, path: Path) -> None:
    """Put the weights of a file into a module, all of them.

    A dict nested under "state_dict", "model_state_dict" or "model" is found, and the "module." that DataParallel
    leaves in front of names is dropped. A file of `save_checkpoint` brings the module to its sizes first.

    Raises:
        ExportError: The file is missing, unreadable or holds more than tensors, or keys or shapes do not fit.
    """
    state, structure = _read(Path(path))
    state = _fitted_prefix(state, module)
    own = module.state_dict()
    shared = {own[key].data_ptr() for key in state if key in own}
    missing = [key for key, value in own.items() if key not in state and value.data_ptr() not in shared]
    unexpected = [key for key in state if key not in own]
    if structure is not None and not missing and not unexpected:
        apply_structure(module, structure)
        own = module.state_dict()
    wrong = [f"{key} {tuple(value.shape)} instead of {tuple(own[key].shape)}" for key, value in state.items()
             if key in own and own[key].shape != value.shape]
    if missing or unexpected or wrong:
        told = [_told("missing", missing), _told("unexpected", unexpected), _told("of another shape", wrong)]
        raise ExportError(f"'{path}' does not fit {type(module).__name__}: {'; '.join(filter(None, told))}. "
                          "Use the factory that the weights were trained with")
    module.load_state_dict(state, strict=False)


def _told(what: str, keys: list[str]) -> str:
    more = f", and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else ""
    return f"{len(keys)} {what} ({', '.join(keys[:_SHOWN])}{more})" if keys else ""


def _read(path: Path) -> tuple[Mapping[str, torch.Tensor], Mapping[str, Any] | None]:
    """Return the tensors in a file, and the sizes of the module that they are of where `save_checkpoint` wrote it."""
    try:
        with path.open("rb") as file:
            head = file.read(9)
    except OSError as err:
        raise ExportError(f"Weights '{path}' cannot be read: {err.strerror}. Give a safetensors file or a state_dict "
                          "saved by torch.save") from err
    if path.suffix == ".safetensors" or head[8:] == b"{":
        content, structure = _read_safetensors(path)
    else:
        content, structure = _read_torch(path), None
    for key in _NESTED_UNDER:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not content or not all(map(torch.is_tensor, content.values())):
        raise ExportError(f"Weights '{path}' hold {type(content).__name__}, not names and tensors. "
                          "Save module.state_dict()")
    return content, structure


def _read_safetensors(path: Path) -> tuple[Any, Any]:
    safetensors = require("safetensors", extra="export", feature="Reading safetensors")
    try:
        with safetensors.safe_open(path, framework="pt", device="cpu") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no mapping
        structure = json.loads(metadata[STRUCTURE]) if STRUCTURE in metadata else None
    except (safetensors.SafetensorError, OSError, ValueError, struct.error) as err:
        raise ExportError(f"Weights '{path}' are no readable safetensors file: {err}. Save them again, or fetch the "
                          "file again") from err
    if structure is not None:
        _check_structure(path, structure, tensors)
    return tensors, structure


def _check_structure(path: Path, structure: Any, tensors: Mapping[str, torch.Tensor]) -> None:
    """Return when the sizes that a file tells are those of its tensors: none is made for a size that is only told."""
    told = structure.get("tensors") if isinstance(structure, dict) else None
    held = {name: list(tensor.shape) for name, tensor in tensors.items()}
    if not isinstance(told, dict) or told != held:
        wrong = [name for name in held if not isinstance(told, dict) or told.get(name) != held[name]]
        raise ExportError(f"Weights '{path}' tell other sizes than they hold, such as of "
                          f"{', '.join(wrong[:_SHOWN]) or 'tensors that are not there'}. Save the module again with "
                          "trtkit.export.save_checkpoint")


def _read_torch(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as err:
        raise ExportError(f"Weights '{path}' hold more than tensors, or are no weights: unpickling them could run "
                          "code, so they are not loaded. Save module.state_dict() with safetensors or "
                          "torch.save") from err
    except Exception as err:  # what is no pickle at all fails in the unpickler in any way
        line = (str(err).splitlines() or [type(err).__name__])[0]
        raise ExportError(f"Weights '{path}' cannot be read: {line}. They must be a safetensors file or a state_dict "
                          "saved by torch.save") from err


def _fitted_prefix(state: Mapping[str, torch.Tensor], module: torch.nn.Module) -> dict[str, torch.Tensor]:
    prefix = "module."
    own = module.state_dict()
    if all(key.startswith(prefix) for key in state) and not any(key in own for key in state):
        return {key[len(prefix):]: value for key, value in state.items()}
    return dict(state)


def _made(found: Any, factory: str) -> torch.nn.Module:
    made = found
    if not isinstance(made, torch.nn.Module):
        if not callable(made):
            raise ExportError(f"'{factory}' is a {type(made).__name__}. Name a function that returns the module")
        try:
            made = made()
        except Exception as err:
            raise ExportError(f"'{factory}' fails: {type(err).__name__}: {err}. "
                          "It is called without arguments") from err
    if not isinstance(made, torch.nn.Module):
        raise ExportError(f"'{factory}' returns a {type(made).__name__}, not a torch.nn.Module. Return the module")
    return made
