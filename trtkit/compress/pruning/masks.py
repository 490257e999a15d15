"""Which weights are zero, and keeping them so while the others train.

    masks = sparsify_two_four(module)
    fit(module, loader, step, spec, after_step=masks.apply)

Masks are not stored: a checkpoint holds the zeros, and `Masks.of` reads them back from there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from trtkit.compress.pruning.weights import weights_of
from trtkit.errors import SpecError

__all__ = ["Masks"]


class Masks:
    """The weights of a module that stay, by parameter name.

    Args:
        kept: True where a weight stays; bool, in the parameter's shape.
        notes: What a person should read: layers left dense, and why.
    """

    def __init__(self, kept: Mapping[str, torch.Tensor], notes: tuple[str, ...] = ()) -> None:
        self.kept = dict(kept)
        self.notes = notes

    @classmethod
    def of(cls, module: nn.Module) -> Masks:
        """Return the masks that a module's zeros spell out: every weight that is exactly 0 stays 0.

        A weight without any zero gets no mask. Trained weights are hardly ever 0 by chance; a layer whose initial
        weights are zeros must have been trained before.

        Raises:
            SpecError: The module has no weights.
        """
        return cls({weight.name: weight.tensor.detach() != 0 for weight in weights_of(module)
                    if bool((weight.tensor.detach() == 0).any())})

    @property
    def sparsity(self) -> float:
        """Share of zeros in the masked parameters, 0 to 1."""
        total = sum(mask.numel() for mask in self.kept.values())
        return 1 - sum(int(mask.sum()) for mask in self.kept.values()) / total if total else 0.0

    def apply(self, module: nn.Module) -> None:
        """Set the masked weights to 0, in place; call it after each step of the optimizer.

        The optimizer may keep momentum for them, which comes to nothing: it never meets a gradient of theirs that
        counts, since they are 0 again before the next forward pass.

        Args:
            module: What the masks were made of, or a copy; on any device.

        Raises:
            SpecError: It lacks a masked parameter, or has it in another shape.
        """
        parameters: dict[str, Any] = dict(module.named_parameters(remove_duplicate=False))
        with torch.no_grad():
            for name, mask in self.kept.items():
                weight = parameters.get(name)
                if weight is None or weight.shape != mask.shape:
                    has = "has no such parameter" if weight is None else f"has it as {tuple(weight.shape)}"
                    raise SpecError(f"Mask of '{name}', {tuple(mask.shape)}: the {type(module).__name__} {has}. Make "
                                    "the masks anew from its zeros: Masks.of(module)")
                if mask.device != weight.device:
                    self.kept[name] = mask = mask.to(weight.device)
                weight.masked_fill_(~mask, 0)
