"""Logits of teacher and student -> a loss that is least when both say the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.nn import functional

from trtkit.errors import SpecError
from trtkit.export.outputs import named_tensors

__all__ = ["chosen_output", "logit_divergence", "soft_tag_loss"]


def logit_divergence(student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> torch.Tensor:
    """Return T**2 * KL(softmax(teacher / T) || softmax(student / T)), the mean over the batch and over positions.

    Args:
        student, teacher: Logits of shape (N, classes, ...); positions such as pixels come after the classes.
        temperature: T; the factor T**2 keeps the gradients' size independent of it.

    Returns:
        A tensor of one element, float32, in nats; 0 when the two distributions are equal.

    Source: Hinton, Vinyals and Dean, 2015, section 2.
    """
    ours, theirs = (functional.log_softmax(logits.float() / temperature, dim=1) for logits in (student, teacher))
    return functional.kl_div(ours, theirs, reduction="none", log_target=True).sum(1).mean() * temperature**2


def soft_tag_loss(student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> torch.Tensor:
    """Return T**2 * BCE(sigmoid(student / T), sigmoid(teacher / T)), summed over labels, the mean over the rest.

    A sum over labels, since the mean over a hundred of them drowns the few that are in the picture.

    Args:
        student, teacher: Logits of shape (N, labels, ...).
        temperature: T.

    Returns:
        A tensor of one element, float32; the teacher's own entropy, times T**2, when both are equal.
    """
    tags = torch.sigmoid(teacher.float() / temperature)
    loss = functional.binary_cross_entropy_with_logits(student.float() / temperature, tags, reduction="none")
    return loss.sum(1).mean() * temperature**2


def chosen_output(value: Any, name: str | None, whose: str) -> torch.Tensor:
    """Return one tensor of what a forward returned.

    Args:
        value: A tensor, or a tuple, dict, dataclass or ModelOutput of them.
        name: A name as `named_tensors` gives it; None takes "logits", or the only tensor. A lone tensor is taken
            whatever the name.
        whose: "Teacher" or "Student", for messages.

    Raises:
        SpecError: There is no output of this name, or there are several and none was named.
    """
    if isinstance(value, torch.Tensor):
        return value
    tensors: Mapping[str, torch.Tensor] = dict(named_tensors(value))
    if name is None:
        name = "logits" if "logits" in tensors or len(tensors) > 1 else next(iter(tensors))
    if name not in tensors:
        raise SpecError(f"{whose} returns no output '{name}'. Set `output` to one of: {', '.join(tensors)}")
    return tensors[name]
