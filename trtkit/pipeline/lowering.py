"""Step `lower`: FP32 graph + table -> one checked model a target and precision."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import onnx

from trtkit.errors import SpecError
from trtkit.files import atomic_write
from trtkit.graph import model_bytes, model_inputs, random_feeds, rewrite
from trtkit.pipeline.calibration import source_of
from trtkit.pipeline.source import own_passes
from trtkit.pipeline.state import Candidate, State
from trtkit.precision import Precision
from trtkit.progress import Progress
from trtkit.quant.lower import check_lowered, lower
from trtkit.recipe import Deployment
from trtkit.target import Target
from trtkit.tensors import Feeds

__all__ = ["lower_step"]

_CHECKED_SAMPLES = 4
_UNJUDGED_COSINE = 0.9


def lower_step(state: State, progress: Progress) -> State:
    """Lower the model for every target and precision, check each against FP32, and write it to the work folder."""
    samples = _samples(state)
    reference = model_bytes(state.graph)
    unjudged = state.recipe.evaluate is None  # else the step that evaluates says what is too far, and repairs it
    wanted = [(each, precision) for each in state.recipe.deployments for precision in _precisions(each, state.graph)]
    candidates: list[Candidate] = []
    notes = list(state.notes)
    files: dict[str, Path] = {}
    for done, (deployment, precision) in enumerate(wanted):
        progress("Lowering", done, len(wanted))
        target = deployment.target
        graph, table = state.quantized_from(precision)
        model = rewrite(graph, own_passes(state.recipe, target)).model
        try:
            lowered = lower(model, target, precision, table=table, spec=state.recipe.quantize)
        except SpecError as err:
            if precision in deployment.precisions:
                raise
            notes.append(f"{target.name} {precision.value} is not tried: {err}")
            continue
        full = reference if graph is state.graph else model_bytes(graph)
        check = check_lowered(full, lowered, samples, smallest_cosine=_UNJUDGED_COSINE if unjudged else -1.0)
        digest = hashlib.sha256(lowered.model).hexdigest()
        if digest not in files:
            files[digest] = state.recipe.work / f"{_stem(target, precision, files)}.onnx"
            atomic_write(files[digest], lowered.model)
        path, cache = files[digest], None
        if lowered.cache is not None:
            cache = state.recipe.work / f"{target.name}-{precision.value}.cache"
            atomic_write(cache, lowered.cache)
        candidates.append(Candidate(target, precision, lowered, path, cache))
        notes.append(f"{target.name} {precision.value}: cosine with FP32 {check.cosine:.5f}"
                     + "".join(f"; {note}" for note in lowered.notes))
    progress("Lowering", len(wanted), len(wanted))
    return replace(state, candidates=tuple(candidates), notes=tuple(notes))


def _precisions(deployment: Deployment, model: onnx.ModelProto) -> tuple[Precision, ...]:
    """Return what the recipe wants, and dynamic INT8 where it leaves the choice and the model could gain by it."""
    dynamic = Precision.INT8_DYNAMIC
    open_to_it = deployment.has_choice and deployment.target.device == "cpu" and dynamic in deployment.target.precisions
    constants = {tensor.name for tensor in model.graph.initializer}
    gains = any(node.op_type == "MatMul" and node.input[1] in constants for node in model.graph.node)
    return (*deployment.precisions, dynamic) if open_to_it and gains else deployment.precisions


def _stem(target: Target, precision: Precision, taken: Mapping[str, Path]) -> str:
    """Return a name for a new file: of what is in it, which on the weak path is FP32; targets often share that."""
    inside = Precision.FP32 if target.typing == "weak" else precision
    free = "fp32" not in {path.stem for path in taken.values()}
    return "fp32" if inside is Precision.FP32 and free else f"{target.name}-{inside.value}"


def _samples(state: State) -> list[Feeds]:
    """Return a few real inputs; random ones where the recipe names no data."""
    section = state.recipe.evaluate or state.recipe.calibrate
    if section is None:
        return [random_feeds(state.graph, seed) for seed in range(_CHECKED_SAMPLES)]
    data = source_of(state, section.data, section.limit)
    names = {spec.name for spec in model_inputs(state.graph)}
    return [{name: sample.feeds[name] for name in names if name in sample.feeds}
            for sample in itertools.islice(data, _CHECKED_SAMPLES)]
