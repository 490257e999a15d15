"""One step of [[compress]] -> the module that it makes, trained in a folder from which a stopped run goes on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from trtkit.calib import open_data
from trtkit.evaluate import Accuracy, loss_of
from trtkit.pipeline.repairing import task_of
from trtkit.pipeline.state import State
from trtkit.progress import Progress
from trtkit.recipe import (
    CompressStep,
    DistillStep,
    FinetuneStep,
    ModuleSource,
    PruneStep,
    Recipe,
    ResolutionStep,
    TrainSection,
)
from trtkit.tensors import TensorSpec

if TYPE_CHECKING:
    from trtkit.compress.pruning.spec import Latency
    from trtkit.compress.stage import Stage

__all__ = ["StepRun", "latency_of", "run_step", "sources", "stage_after", "trainings"]


@dataclass(frozen=True)
class StepRun:
    """What a step works with.

    Attributes:
        recipe: See there.
        original: The recipe's own model, fine-tuned where that comes first.
        before: The model that the steps before have made.
        after: The model that the step will make; its weights are not there yet.
        folder: For checkpoints and logs.
        progress: Told of the training.
    """

    recipe: Recipe
    original: Stage
    before: Stage
    after: Stage
    folder: Path
    progress: Progress

    def train(self, module: Any, section: TrainSection, folder: str) -> None:
        """Train a module in place; zeros of a sparse one stay."""
        from trtkit.compress.training.loop import fit
        from trtkit.compress.training.named import step_named

        masks = self.after.masks(module)
        fit(module, self.after.loader(section.data), step_named(section.loss), section.spec,
            folder=self.folder / folder, after_step=None if masks is None else masks.apply, progress=self.progress)

    def score(self) -> Callable[[Any], float] | None:
        """Return what tells the points of a module, 0 to 100, on the evaluation data; None where there is none."""
        from trtkit.compress.scoring import module_accuracy

        section, stage = self.recipe.evaluate, self.before
        if section is None:
            return None
        spec = TensorSpec(stage.input_name, "float32", ("batch", *stage.shape[1:]))
        data = open_data(section.data, input=spec, preprocess=stage.preprocess, limit=section.limit)
        postprocess = self.recipe.postprocess
        reference: list[Accuracy] = []

        def accuracy(module: Any) -> Accuracy:
            return module_accuracy(module, data, task=task_of(State(self.recipe)),
                                   output=postprocess.output if postprocess else None)

        def points(module: Any) -> float:
            found = accuracy(module)
            if not found.labelled and not reference:
                reference.append(accuracy(stage.load()))
            return loss_of(found, reference[0] if reference else found).value

        return points


def stage_after(step: CompressStep, before: Stage, original: Stage) -> Stage:
    """Return what a step makes of a model, before its weights are there."""
    from trtkit.compress.pruning.spec import Method

    if isinstance(step, ResolutionStep):
        return before.resized(step.size)
    if isinstance(step, PruneStep) and step.spec.method is not Method.CHANNELS:
        return replace(before, is_sparse=True)
    if isinstance(step, DistillStep) and step.student is not None:
        return replace(before, factory=step.student.factory, weights=step.student.weights,
                       is_sparse=False)
    if isinstance(step, DistillStep) and step.is_scaled:
        return replace(before, factory=original.factory, weights=None, width=step.width, depth=step.depth,
                       is_sparse=False)
    return before


def run_step(step: CompressStep, run: StepRun) -> tuple[Any, str]:
    """Return the module that a step of torch makes, and what a person should read.

    Raises:
        TrtkitError: It failed; `run.folder` keeps what was done.
    """
    if isinstance(step, PruneStep):
        return _prune(step, run)
    if isinstance(step, DistillStep):
        return _distill(step, run), ""
    if isinstance(step, ResolutionStep):
        return _resize(step, run), "" if step.train else f"size {step.size[0]}x{step.size[1]}, not trained there"
    assert isinstance(step, FinetuneStep)
    return _finetune(step, run), ""


def _prune(step: PruneStep, run: StepRun) -> tuple[Any, str]:
    from trtkit.compress.pruning.prune import prune
    from trtkit.compress.training.named import step_named

    section, stage = step.train, run.before
    example = {stage.input_name: np.zeros((1, *stage.shape[1:]), np.float32)}

    def finetune(module: Any, number: int) -> None:
        assert section is not None
        run.train(module, section, f"finetune-{number}")

    pruned = prune(stage.load(), example, step.spec, finetune=None if section is None else finetune,
                   loader=stage.loader(step.reads.data) if step.reads else None,
                   step=step_named(step.reads.loss) if step.reads else None,
                   evaluate=run.score(), latency=latency_of(step, stage), folder=run.folder / "pruning",
                   progress=run.progress)
    report = pruned.report
    return pruned.module, " ".join((*((report.stopped,) if report.stopped else ()), *report.notes))


def latency_of(step: PruneStep, stage: Stage) -> Latency | None:
    """Return what tells the latency of a module for Goal.LATENCY; None for other goals.

    Raises:
        SpecError: This machine is not the step's target, or its table cannot be read or is another target's.
    """
    from trtkit.compress.pruning.latency import MeasuredLatency, TableLatency
    from trtkit.compress.pruning.spec import Goal
    from trtkit.runtime.latency_table import LatencyTable

    if step.spec.goal is not Goal.LATENCY:
        return None
    example = {stage.input_name: np.zeros((1, *stage.shape[1:]), np.float32)}
    if step.table is not None:
        return TableLatency(LatencyTable.load(step.table), example, step.target)
    assert step.target is not None
    return MeasuredLatency(example, step.target, step.precision)


def _finetune(step: FinetuneStep, run: StepRun) -> Any:
    module = run.before.load()
    run.train(module, step.train, "training")
    return module


def _distill(step: DistillStep, run: StepRun) -> Any:
    from trtkit.compress.distillation.distill import distill
    from trtkit.compress.training.named import step_named

    student = _student(step, run)
    masks = run.after.masks(student)
    distill(_at_size(step.teacher, run), student, run.after.loader(step.train.data), step.spec, train=step.train.spec,
            hard=step_named(step.train.loss), folder=run.folder / "training", progress=run.progress,
            after_step=None if masks is None else masks.apply)
    return student


def _student(step: DistillStep, run: StepRun) -> Any:
    """Return the module that learns: the one before, another one, or a scaled one with a selection of the weights."""
    if step.student is not None:
        return _at_size(step.student, run)
    if not step.is_scaled:
        return run.before.load()
    from trtkit.compress.distillation.scaling import select_weights

    student = run.after.load()
    select_weights(student, _at_size(None, run))
    return student


def _at_size(source: ModuleSource | None, run: StepRun) -> Any:
    """Return a module other than the one before, the recipe's own when None, for inputs of the size of today."""
    stage = run.original if source is None else replace(run.original, factory=source.factory, weights=source.weights)
    return run.after.fitted(stage.load())


def _resize(step: ResolutionStep, run: StepRun) -> Any:
    module = run.after.fitted(run.before.load())
    if step.train is not None:
        run.train(module, step.train, "training")
    return module


def trainings(step: CompressStep) -> tuple[TrainSection, ...]:
    """Return what a step reads data by."""
    found = (step.train, step.reads) if isinstance(step, PruneStep) else (step.train,)
    return tuple(section for section in found if section is not None)


def sources(step: CompressStep) -> tuple[ModuleSource, ...]:
    """Return the modules that a step names."""
    found = (step.teacher, step.student) if isinstance(step, DistillStep) else ()
    return tuple(source for source in found if source is not None)
