"""A trained teacher and a smaller student -> the student, trained to say what the teacher says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from trtkit.compress.distillation.forward import inputs_of
from trtkit.compress.distillation.hints import hinted
from trtkit.compress.distillation.spec import DistillSpec
from trtkit.compress.distillation.step import distillation_step
from trtkit.compress.training.loop import Fit, fit
from trtkit.compress.training.spec import Evaluate, Loader, LossStep, TrainSpec
from trtkit.errors import SpecError
from trtkit.progress import Progress, silent

__all__ = ["Distilled", "distill"]


@dataclass(frozen=True)
class Distilled:
    """A trained student.

    Attributes:
        student: The module that was given, in evaluation mode.
        fit: How its training went.
    """

    student: nn.Module
    fit: Fit


def distill(teacher: nn.Module, student: nn.Module, loader: Loader, spec: DistillSpec | None = None, *,
            train: TrainSpec | None = None, step: LossStep | None = None, hard: LossStep | None = None,
            folder: Path | None = None, evaluate: Evaluate | None = None,
            after_step: Callable[[nn.Module], None] | None = None, progress: Progress = silent) -> Distilled:
    """Train the student to say what the teacher says, and return it.

    Args:
        teacher: Put in evaluation mode and on the student's device; it gets no gradients.
        student: Trained in place.
        loader: Batches (inputs, targets), or inputs alone where `spec.hard` is 0.
        spec: What is learned; the defaults when None.
        train: How; the defaults when None.
        step: Replaces the whole loss by one of your own, (student, batch) -> loss; then spec and teacher are not used.
        hard: Replaces `spec.hard_loss` by a loss of your own; it calls the student once.
        folder: Holds checkpoints and the log; a run that was stopped goes on from there.
        evaluate: Scores the student after each epoch.
        after_step: Called with the student after each step, such as `masks.apply`.
        progress: Told of the steps.

    Raises:
        SpecError: Teacher and student share what is trained, their logits differ in shape, a hint matches nothing.
    """
    spec, train = spec or DistillSpec(), train or TrainSpec()
    trained = student
    if step is None:
        step = distillation_step(teacher, spec, hard)
        if spec.hints:
            trained = _with_projections(teacher, student, loader, spec, train.seed)
    result = fit(trained, loader, step, train, folder=folder, progress=progress,
                 evaluate=None if evaluate is None else lambda _: evaluate(student),
                 after_step=None if after_step is None else lambda _: after_step(student))
    return Distilled(student.eval(), result)


def _with_projections(teacher: nn.Module, student: nn.Module, loader: Loader, spec: DistillSpec,
                      seed: int) -> nn.Module:
    """Return the student with projections sized by the first batch; torch's random numbers stay as they were."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        batch = next(iter(loader), None)
        if batch is None:
            raise SpecError("The loader is empty, so the hints have no features to compare. Give at least one batch")
        return hinted(student, teacher, inputs_of(batch), spec.hints)
