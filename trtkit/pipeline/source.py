"""Steps `export` and `rewrite`: recipe -> the FP32 graph that all targets share."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from trtkit.graph import embed_preprocess, load_model, preset, rewrite
from trtkit.pipeline.state import State
from trtkit.progress import Progress
from trtkit.recipe import Recipe
from trtkit.target import Target
from trtkit.tensors import parse_shape

__all__ = ["export_module", "export_step", "own_passes", "rewrite_step", "shared_passes"]


def export_step(state: State, progress: Progress) -> State:
    """Load the ONNX file, or export the torch module and check it against torch; what was compressed is exported."""
    if state.model is not None:
        return state
    model = state.recipe.model
    if model.onnx is not None:
        return replace(state, model=load_model(model.onnx), preprocess=state.recipe.preprocess)

    from trtkit.export import load_module

    path = state.recipe.work / "exported.onnx"
    notes = export_module(state.recipe, load_module(model.factory, model.weights), parse_shape(model.input), path,
                          progress)
    return replace(state, model=load_model(path), preprocess=state.recipe.preprocess, notes=(*state.notes, *notes))


def export_module(recipe: Recipe, module: Any, shape: tuple[int, ...], path: Path,
                  progress: Progress) -> tuple[str, ...]:
    """Write a torch module as the ONNX model that all targets of a recipe start from, and return what is to be said.

    Args:
        recipe: Gives the opset, and the names of the input and its batch dimension.
        module: A torch.nn.Module.
        shape: Of an example input.
        path: To write.
        progress: Told of the exporters.

    Raises:
        ExportError: No exporter succeeded.
    """
    from trtkit.export import ExportOptions, export_onnx

    example = {recipe.model.input_name: np.zeros(shape, np.float32)}
    options = ExportOptions(opset=min(each.target.opset for each in recipe.deployments),
                            batch=recipe.model.batch or None)
    exported = export_onnx(module, example, options, path=path, progress=progress)
    failed = "".join(f"; {attempt.exporter.value} failed: {attempt.error}" for attempt in exported.attempts
                     if attempt.error)
    worst = max((output.max_abs_error for case in exported.parity.cases for output in case.outputs), default=0.0)
    return (f"Exported by {exported.exporter.value}, largest difference from torch {worst:.1e}{failed}",
            *exported.parity.warnings)


def rewrite_step(state: State, progress: Progress) -> State:
    """Run the recipe's own passes and those that every target's preset has."""
    recipe, prepare = state.recipe, state.preprocess
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
