"""Where a training is, as one file: tensors as safetensors, and the rest as JSON in its header.

Tensors: "module.NAME", "optimizer.NUMBER.NAME" and "history" (float64, a row a step). One file, because it replaces
the one before as a whole: a run that is killed at any moment finds the last checkpoint or the one before, never half of
each.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from trtkit._optional import require
from trtkit.errors import SpecError, TrainingError
from trtkit.export.saving import writable
from trtkit.files import atomic_write

__all__ = ["Checkpoint", "digest", "refuse_other"]

_KEY = "trtkit.training"


@dataclass(frozen=True)
class Checkpoint:
    """The state of a training between two steps.

    Attributes:
        tensors: By name, on the CPU.
        facts: Whatever else there is, as JSON takes it.
    """

    tensors: Mapping[str, torch.Tensor]
    facts: Mapping[str, Any]

    def save(self, path: Path) -> None:
        """Write the checkpoint, whole or not at all.

        Raises:
            TrainingError: It cannot be written, such as for want of disk space; the one before is intact.
        """
        writer = require("safetensors.torch", extra="compress", feature="Checkpoints")
        try:
            atomic_write(path, writer.save(writable(self.tensors), {_KEY: json.dumps(self.facts)}))
        except SpecError as err:
            raise TrainingError(f"Checkpoint after step {self.facts['step']}: {err}. Free some space, or name another "
                                "folder, and run again: training goes on from the last checkpoint") from err

    @classmethod
    def load(cls, path: Path) -> Checkpoint | None:
        """Return the checkpoint in `path`, or None when there is no such file.

        Raises:
            TrainingError: The file is no checkpoint, or damaged.
        """
        if not path.exists():
            return None
        safetensors = require("safetensors", extra="compress", feature="Checkpoints")
        try:
            with safetensors.safe_open(path, framework="pt", device="cpu") as file:
                facts = json.loads((file.metadata() or {})[_KEY])
                return cls({name: file.get_tensor(name).clone() for name in file.keys()}, facts)  # noqa: SIM118
        except (safetensors.SafetensorError, OSError, ValueError, KeyError) as err:
            raise TrainingError(f"'{path}' is no checkpoint of a training, or a damaged one ({err}). "
                                "Remove it to start anew") from err

    def below(self, prefix: str) -> dict[str, torch.Tensor]:
        """Return the tensors whose names begin with `prefix`, by what follows it."""
        return {name[len(prefix):]: tensor for name, tensor in self.tensors.items() if name.startswith(prefix)}


def digest(state: Mapping[str, Any]) -> str:
    """Return a fingerprint of the tensors in a state_dict: their names, shapes, dtypes and bits."""
    sha = hashlib.sha256()
    for name, tensor in state.items():
        if not isinstance(tensor, torch.Tensor):  # a module's extra state
            continue
        sha.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        sha.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()


def refuse_other(path: Path, was: Mapping[str, str], now: Mapping[str, str]) -> None:
    """Return when both say the same of a training.

    Args:
        path: Of the checkpoint, for the message.
        was, now: What the checkpoint's training depended on, and what this one does: name -> value.

    Raises:
        TrainingError: Something differs.
    """
    changed = [f"{name} (was {was.get(name)}, is {now.get(name)})" for name in {**was, **now}
               if was.get(name) != now.get(name)]
    if changed:
        raise TrainingError(f"Checkpoint '{path}' is of another training: {', '.join(changed)} differ. Go back to what "
                            "it was made with (same model, weights and seed), name another folder, or remove this one "
                            "to start anew")
