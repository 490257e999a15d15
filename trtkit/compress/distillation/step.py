"""A teacher -> the training step of its student: one forward of each on the same inputs, and the sum of losses."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from trtkit.compress.distillation.forward import last_call
from trtkit.compress.distillation.hints import HintedStudent, features_of
from trtkit.compress.distillation.losses import chosen_output, logit_divergence, soft_tag_loss
from trtkit.compress.distillation.spec import DistillSpec
from trtkit.compress.training.batches import call, device_of, inputs_of
from trtkit.compress.training.losses import step_for
from trtkit.compress.training.spec import LossStep
from trtkit.errors import SpecError, TrainingError

__all__ = ["distillation_step"]


def distillation_step(teacher: nn.Module, spec: DistillSpec, hard: LossStep | None = None) -> LossStep:
    """Return a step (student, batch) -> loss, for `fit` or a loop of one's own.

    Args:
        teacher: Put in evaluation mode, and moved to the student's device, at each step; it gets no gradients.
        spec: With hints, the student must be a HintedStudent, as `hinted` returns it.
        hard: Loss on true labels in place of `spec.hard_loss`. It calls the student, and the teacher gets the inputs
            of that call, so it may read the batch as it likes and augment it.

    Returns:
        A step that raises SpecError where the student shares trained parameters with the teacher, lacks projections
        for the hints or returns logits of another shape, and TrainingError where the teacher returns NaN or
        infinity.

    Raises:
        SpecError: `spec.hard_loss` is unknown.
    """
    if hard is None and spec.hard:
        hard = step_for(spec.hard_loss)

    def step(student: nn.Module, batch: Any) -> torch.Tensor:
        bare = student.student if isinstance(student, HintedStudent) else student
        pairs = student.pairs if isinstance(student, HintedStudent) else ()
        _check(teacher, bare, spec, bool(pairs))
        losses: list[torch.Tensor] = []
        with last_call(bare) as ours, features_of(bare, [pair.student for pair in pairs]) as our_features:
            if hard is not None and spec.hard:
                losses.append(spec.hard * hard(bare, batch).reshape(()))
            else:
                call(bare, inputs_of(batch))
        if not ours.made:
            raise SpecError("The hard-label loss does not call the student that it was given. Call it once")
        teacher.eval().to(device_of(bare))
        with torch.no_grad(), features_of(teacher, [pair.teacher for pair in pairs]) as their_features:
            told = teacher(*ours.args, **ours.kwargs)
        if spec.logits or spec.tags:
            losses += _logit_losses(ours.output, told, spec)
        if isinstance(student, HintedStudent):
            losses.append(student.hint_losses(our_features, their_features))
        return torch.stack(losses).sum()

    return step


def _check(teacher: nn.Module, student: nn.Module, spec: DistillSpec, has_projections: bool) -> None:
    theirs = set(map(id, teacher.parameters()))
    shared = [name for name, weight in student.named_parameters() if weight.requires_grad and id(weight) in theirs]
    if teacher is student or shared:
        what = ", ".join(shared[:3]) or "they are one module"
        raise SpecError(f"Teacher and student share what is trained ({what}), so the teacher would "
                        "change with its student. Give a student of its own, such as a deepcopy")
    if spec.hints and not has_projections:
        raise SpecError(f"{type(student).__name__} has no projections for the {len(spec.hints)} hints. Train "
                        "hinted(student, teacher, inputs, spec.hints) with this step")


def _logit_losses(student: Any, teacher: Any, spec: DistillSpec) -> list[torch.Tensor]:
    ours, theirs = chosen_output(student, spec.output, "Student"), chosen_output(teacher, spec.output, "Teacher")
    if ours.shape != theirs.shape:
        raise SpecError(f"Student returns logits {tuple(ours.shape)} and teacher {tuple(theirs.shape)}. Give both the "
                        "same classes, set `output`, or learn from hints alone (logits = 0)")
    if not torch.isfinite(theirs).all():
        raise TrainingError("Teacher returns NaN or infinity, so there is nothing to learn from. Check its "
                            "weights and the preprocessing of its inputs; set amp to False where FP16 overflows")
    losses = ((spec.logits, logit_divergence, spec.temperature), (spec.tags, soft_tag_loss, spec.tag_temperature))
    return [weight * loss(ours, theirs, temperature) for weight, loss, temperature in losses if weight]
