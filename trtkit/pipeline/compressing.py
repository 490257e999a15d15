"""Step `compress`: the torch module of a recipe -> a smaller one, step by step, each kept on disk and measured.

Folder WORK/compress: one folder a step, `0-start` first. A step that is finished is not done again while its settings
and everything before it stay the same; one that was stopped goes on from its last checkpoint.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import onnx

from trtkit._optional import require
from trtkit.bundle.compression import CompressionRow
from trtkit.graph import load_model
from trtkit.pipeline.compress_steps import StepRun, latency_of, run_step, sources, stage_after, trainings
from trtkit.pipeline.kept_steps import KeptStep, fingerprint_of, fingerprint_of_model
from trtkit.pipeline.rows import Measuring, parameters_in
from trtkit.pipeline.source import export_module
from trtkit.pipeline.state import State
from trtkit.preprocess import Preprocess
from trtkit.progress import Progress
from trtkit.recipe import CompressStep, FinetuneStep, PruneStep, QatStep, Recipe
from trtkit.tensors import parse_shape

if TYPE_CHECKING:
    from trtkit.compress.stage import Stage

__all__ = ["compress_step", "measuring_of", "steps_folder"]

logger = logging.getLogger(__name__)


def steps_folder(recipe: Recipe) -> Path:
    """Return the folder that holds a folder for each step."""
    return recipe.work / "compress"


def compress_step(state: State, progress: Progress) -> State:
    """Run the steps of [[compress]] that work on torch modules; nothing to do where there are none.

    Raises:
        TrtkitError: A step failed; those before it are kept, and what it has done so far as well.
    """
    recipe = state.recipe
    steps = [step for step in recipe.compress if not isinstance(step, QatStep)]
    if not recipe.compress:
        return state
    for package in ("torch", "safetensors"):
        require(package, extra="compress", feature="A recipe with [[compress]]")
    if recipe.model.onnx is not None:  # QAT alone
        _check_names(recipe)
        model = load_model(recipe.model.onnx)
        row = measuring_of(recipe, progress).row("start", model, recipe.preprocess, parameters_in(model))
        return replace(state, compression=(row,))
    return _Chain(recipe, progress).run(state, steps)


def measuring_of(recipe: Recipe, progress: Progress) -> Measuring:
    """Return what measures the models of a recipe, each in turns with the one before the first step."""

    def start() -> tuple[onnx.ModelProto, Preprocess | None]:
        path = recipe.model.onnx or KeptStep(steps_folder(recipe) / "0-start", "").onnx
        return load_model(path), recipe.preprocess

    return Measuring(recipe, start, progress)


@dataclass(frozen=True)
class _Done:
    """A model after a step."""

    stage: Stage
    kept: KeptStep
    row: CompressionRow


class _Chain:
    """The steps of one recipe, each begun where the one before ended."""

    def __init__(self, recipe: Recipe, progress: Progress) -> None:
        from trtkit.compress.stage import Stage

        model = recipe.model
        self.recipe, self.progress = recipe, progress
        self.original = Stage(model.factory, model.weights, parse_shape(model.input), model.input_name,
                              recipe.preprocess)
        self.measuring = measuring_of(recipe, progress)
        self.checked = False

    def run(self, state: State, steps: Sequence[CompressStep]) -> State:
        """Run what is not there yet, and return the state with the last model."""
        kept = KeptStep(steps_folder(self.recipe) / "0-start", fingerprint_of_model(self.recipe))
        done = [self._start(kept, steps)]
        original = done[0].stage
        notes = list(state.notes)
        for number, step in enumerate(steps, start=1):
            self.progress("Compressing", number - 1, len(steps))
            last = done[-1]
            kept = KeptStep(steps_folder(self.recipe) / f"{number}-{step.name}",
                            fingerprint_of(step, last.kept.fingerprint, self.recipe))
            earlier = kept.facts is not None
            if not earlier:
                self._check(steps)
            done.append(self._after(step, number, last, original, done[0].row, kept))
            if isinstance(step, FinetuneStep) and original is last.stage:
                original = done[-1].stage
            said = " ".join((kept.facts or {}).get("notes", ()))
            notes.append(f"{number} {step.name}: {'kept from an earlier run. ' if earlier else ''}{said}")
        self.progress("Compressing", len(steps), len(steps))
        return replace(state, model=load_model(done[-1].kept.onnx), preprocess=done[-1].stage.preprocess,
                       compression=tuple(each.row for each in done), notes=tuple(notes))

    def _start(self, kept: KeptStep, steps: Sequence[CompressStep]) -> _Done:
        if kept.facts is None:
            self._check(steps)
            kept.open()
            self._write(kept, self.original, self.original.load(), "")
        return _Done(self.original, kept, self._row("start", kept, self.original, None))

    def _after(self, step: CompressStep, number: int, last: _Done, original: Stage, first: CompressionRow,
               kept: KeptStep) -> _Done:
        after = stage_after(step, last.stage, original)
        if kept.facts is None:
            kept.open()
            logger.info("Compressing: step %d, %s", number, step.name)
            run = StepRun(self.recipe, original, last.stage, after, kept.folder, self.progress)
            module, note = run_step(step, run)
            self._write(kept, after, module, note)
        stage = replace(after, weights=kept.module)
        return _Done(stage, kept, self._row(f"{number} {step.name}", kept, stage, first))

    def _write(self, kept: KeptStep, stage: Stage, module: object, note: str) -> None:
        """Write weights and ONNX of a finished step."""
        from trtkit.compress.size import parameters_of
        from trtkit.export import save_checkpoint

        save_checkpoint(module, kept.module)
        notes = export_module(self.recipe, module, stage.shape, kept.onnx, self.progress)
        kept.finish({"parameters": parameters_of(module), "notes": [note, *notes] if note else list(notes)})

    def _row(self, name: str, kept: KeptStep, stage: Stage, first: CompressionRow | None) -> CompressionRow:
        measured = f"{self.measuring.settings} {name}"
        if first is not None:
            measured += f" {first.fp32_ms}"
        row = kept.row(measured)
        if row is None:
            facts = kept.facts or {}
            row = self.measuring.row(name, load_model(kept.onnx), stage.preprocess, int(facts["parameters"]),
                                     first=first)
            kept.keep_row(measured, row)
        return row

    def _check(self, steps: Sequence[CompressStep]) -> None:
        """Raise TrtkitError when something that a step names is not there; once, before any runs."""
        if self.checked:
            return
        _check_names(self.recipe)
        for source in (source for step in steps for source in sources(step)):
            replace(self.original, factory=source.factory, weights=source.weights).load()
        for step in steps:
            if isinstance(step, PruneStep):
                latency_of(step, self.original)
        self.original.load()
        self.checked = True


def _check_names(recipe: Recipe) -> None:
    """Raise TrtkitError when a loader, a loss or a device that a step names is not there."""
    from trtkit.compress.training.batches import device_for
    from trtkit.compress.training.named import step_named
    from trtkit.export.named import find_named

    for section in (section for step in recipe.compress for section in trainings(step)):
        with find_named(section.data, "loader"):
            step_named(section.loss)
        device_for(section.spec.device)
