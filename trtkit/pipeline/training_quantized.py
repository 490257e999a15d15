"""Step `qat`: FP32 graph + table -> both trained on the integer grids of a target, and the row of that."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

from trtkit.bundle.compression import CompressionRow
from trtkit.compress.pruning.spec import Method
from trtkit.graph import fingerprint, load_model, rewrite, save_model
from trtkit.pipeline.compressing import measuring_of, steps_folder
from trtkit.pipeline.kept_steps import KeptStep, fingerprint_of
from trtkit.pipeline.source import own_passes
from trtkit.pipeline.state import State, Trained
from trtkit.progress import Progress
from trtkit.ranges import CalibrationTable
from trtkit.recipe import PruneStep, QatStep, Recipe, ResolutionStep

__all__ = ["qat_step"]

_TABLE = "trained.table"


def qat_step(state: State, progress: Progress) -> State:
    """Train the model on integer grids, where the recipe asks for that; what is there from an earlier run is read.

    Raises:
        TrtkitError: Training failed; its folder keeps what was done.
    """
    recipe, step = state.recipe, state.recipe.qat
    if step is None:
        return state
    assert state.table is not None  # the recipe has [calibrate], and its target wants a calibrated precision
    model = rewrite(state.graph, own_passes(recipe, step.target)).model
    table = replace(state.table, model=fingerprint(model))
    number = len(recipe.compress)
    before = hashlib.sha256(f"{fingerprint(state.graph)} {recipe.quantize}".encode() + table.to_bytes()).hexdigest()
    kept = KeptStep(steps_folder(recipe) / f"{number}-{step.name}", fingerprint_of(step, before, recipe))
    if kept.facts is None:
        kept.open()
        _train(model, table, step, recipe, kept, progress)
    said = "; ".join((f"{number} qat: trained for {step.target.name} {step.precision.value}",
                      *(kept.facts or {}).get("notes", ())))
    trained = Trained(load_model(kept.onnx), CalibrationTable.load(kept.folder / _TABLE), step.precisions)
    state = replace(state, trained=trained, notes=(*state.notes, said))
    return replace(state, compression=(*state.compression, _row(state, step, kept, f"{number} qat", progress)))


def _train(model: Any, table: CalibrationTable, step: QatStep, recipe: Recipe, kept: KeptStep,
           progress: Progress) -> None:
    """Train, and write the model and its table."""
    from trtkit.compress.qat.training import train_quantized
    from trtkit.compress.training.named import loader_named, step_named
    from trtkit.compress.training.resized import resized

    loader = loader_named(step.train.data)
    sizes = [each.size for each in recipe.compress if isinstance(each, ResolutionStep)]
    if sizes:
        last = recipe.preprocess is not None and recipe.preprocess.layout == "nhwc"
        loader = resized(loader, sizes[-1], channels_last=last)
    done = train_quantized(model, table, step.target, loader, step_named(step.train.loss), precision=step.precision,
                           spec=recipe.quantize, train=step.train.spec, scales=step.scales,
                           keep_zeros=_is_sparse(recipe), folder=kept.folder / "training", progress=progress)
    assert done.table is not None  # since one was given
    save_model(done.model, kept.onnx)
    done.table.save(kept.folder / _TABLE)
    kept.finish({"notes": [f"{len(done.fit.history)} steps, scales {step.scales.value}"]})


def _is_sparse(recipe: Recipe) -> bool:
    """Whether a step before sets single weights to zero."""
    return any(isinstance(each, PruneStep) and each.spec.method is not Method.CHANNELS for each in recipe.compress)


def _row(state: State, step: QatStep, kept: KeptStep, name: str, progress: Progress) -> CompressionRow:
    measuring, first, last = measuring_of(state.recipe, progress), state.compression[0], state.compression[-1]
    measured = f"{measuring.settings} {name} {first.fp32_ms} {last.macs} {last.parameters}"
    row = kept.row(measured)
    if row is None:
        row = measuring.quantized_row(name, state, step.target, step.precision, before=last, first=first)
        kept.keep_row(measured, row)
    return row
