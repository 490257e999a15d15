"""Steps `export` and `rewrite`: recipe -> the FP32 graph that all targets share."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from trtkit.graph import embed_preprocess, load_model, preset, rewrite
from trtkit.pipeline.state import State
from trtkit.progress import Progress
from trtkit.recipe import Recipe
from trtkit.target import Target
from trtkit.tensors import parse_shape

__all__ = ["export_step", "own_passes", "rewrite_step", "shared_passes"]


def export_step(state: State, progress: Progress) -> State:
    """Load the ONNX file, or export the torch module and check it against torch."""
    model = state.recipe.model
    if model.onnx is not None:
        return replace(state, model=load_model(model.onnx), preprocess=state.recipe.preprocess)

    from trtkit.export import ExportOptions, export_onnx, load_module

    path = state.recipe.work / "exported.onnx"
    example = {model.input_name: np.zeros(parse_shape(model.input), np.float32)}
    options = ExportOptions(opset=min(each.target.opset for each in state.recipe.deployments),
                            batch=model.batch or None)
    exported = export_onnx(load_module(model.factory, model.weights), example, options, path=path, progress=progress)
    failed = "".join(f"; {attempt.exporter.value} failed: {attempt.error}" for attempt in exported.attempts
                     if attempt.error)
    worst = max((output.max_abs_error for case in exported.parity.cases for output in case.outputs), default=0.0)
    note = f"Exported by {exported.exporter.value}, largest difference from torch {worst:.1e}{failed}"
    return replace(state, model=load_model(path), preprocess=state.recipe.preprocess,
                   notes=(*state.notes, note, *exported.parity.warnings))


def rewrite_step(state: State, progress: Progress) -> State:
    """Run the recipe's own passes and those that every target's preset has."""
    recipe, prepare = state.recipe, state.recipe.preprocess
    passes = [*recipe.rewrite.passes, *shared_passes(recipe)]
    rewritten = rewrite(state.graph, passes, progress=progress)
    changes = rewritten.changes
    model = rewritten.model
    if recipe.rewrite.embed_preprocess and prepare is not None:
        layout = recipe.rewrite.embed_preprocess
        model = rewrite(model, [embed_preprocess(prepare, layout=layout)], progress=progress).model
        prepare = replace(prepare.raw(), layout=layout)
    note = f"Rewritten: {changes} changes, {len(state.graph.graph.node)} -> {len(model.graph.node)} nodes"
    return replace(state, model=model, preprocess=prepare, notes=(*state.notes, note))


def shared_passes(recipe: Recipe) -> tuple[str, ...]:
    """Return the passes that are in the preset of every target, in order: one graph, one calibration table."""
    presets = [preset(each.target) for each in recipe.deployments]
    return tuple(name for name in presets[0] if all(name in names for names in presets))


def own_passes(recipe: Recipe, target: Target) -> tuple[str, ...]:
    """Return what a target's preset has beyond the shared passes."""
    shared = shared_passes(recipe)
    return tuple(name for name in preset(target) if name not in shared)
