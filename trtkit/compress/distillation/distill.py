"""A trained teacher and a smaller student -> the student, trained to say what the teacher says."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from trtkit.compress.distillation.hints import hinted
from trtkit.compress.distillation.spec import DistillSpec
from trtkit.compress.distillation.step import distillation_step
from trtkit.compress.training.batches import count_batches, device_of, inputs_of
from trtkit.compress.training.checkpoint import digest
from trtkit.compress.training.loop import Fit, fit
from trtkit.compress.training.random_state import RandomState
from trtkit.compress.training.spec import Evaluate, Loader, LossStep, TrainSpec
from trtkit.progress import Progress, silent

__all__ = ["Distilled", "distill"]


@dataclass(frozen=True)
class Distilled:
    """A trained student.

    Attributes:
        student: The module that was given.
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
        teacher: In evaluation mode and on the student's device for the while, and left as it was; it gets no gradients.
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
        TrainingError: The loader is empty, the loss or the teacher's output is NaN or infinite, or the folder holds
            the training of another student, teacher or spec.
    """
    spec, train = spec or DistillSpec(), train or TrainSpec()
    trained, identity = student, ""
    if step is None:
        step = distillation_step(teacher, spec, hard)
        identity = f"{spec}, teacher {digest(teacher.state_dict())[:16]}"
        if spec.hints:
            trained = _with_projections(teacher, student, loader, spec, train.seed)
    with _as_it_was(teacher):
        result = fit(trained, loader, step, train, folder=folder, identity=identity, progress=progress,
                     evaluate=None if evaluate is None else lambda _: evaluate(student),
                     after_step=None if after_step is None else lambda _: after_step(student))
    return Distilled(student, result)


def _with_projections(teacher: nn.Module, student: nn.Module, loader: Loader, spec: DistillSpec,
                      seed: int) -> nn.Module:
    """Return the student with projections sized by the first batch; random numbers and the loader stay as they were."""
    count_batches(loader)  # says what is wrong with a loader that has none
    random = RandomState.take(loader)
    torch.manual_seed(seed)
    try:
        return hinted(student, teacher, inputs_of(next(iter(loader))), spec.hints)
    finally:
        random.restore(loader)


@contextmanager
def _as_it_was(teacher: nn.Module) -> Iterator[None]:
    home, modes = device_of(teacher), [(each, each.training) for each in teacher.modules()]
    try:
        yield
    finally:
        teacher.to(home)
        for each, training in modes:
            each.training = training
