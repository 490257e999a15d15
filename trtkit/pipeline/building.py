"""Steps `build` and `pack`: candidates -> plans, where this machine has their TensorRT -> one bundle."""

from __future__ import annotations

import platform
from dataclasses import replace

from trtkit._version import __version__
from trtkit.build import BuildOptions, build_plan
from trtkit.bundle.manifest import Postprocess
from trtkit.errors import SpecError
from trtkit.files import atomic_write
from trtkit.graph import fingerprint, model_inputs
from trtkit.pipeline.state import Candidate, State
from trtkit.progress import Progress
from trtkit.runtime.packing import PackOptions, Source, pack
from trtkit.runtime.probe import probe_device
from trtkit.tensors import ShapeProfile

__all__ = ["build_step", "pack_step"]


def build_step(state: State, progress: Progress) -> State:
    """Build the engine of every candidate whose TensorRT is installed here; the others are built on their boards."""
    device = probe_device()
    flavour = device.tensorrt.module if device.tensorrt else ""
    candidates, notes = [], list(state.notes)
    for each in state.candidates:
        if each.dropped or each.target.runtime != flavour:
            candidates.append(each)
            continue
        profile = _profile(state)
        options = BuildOptions.for_target(each.target, each.precision, profiles=(profile,) if profile else (),
                                          workspace_bytes=state.recipe.build.workspace_bytes,
                                          sparse_weights=state.recipe.build.sparse_weights,
                                          calibration_cache=each.lowered.cache)
        plan = build_plan(each.lowered.model, options, progress=progress)
        path = state.recipe.work / f"{each.target.name}-{each.precision.value}.plan"
        atomic_write(path, plan.data)
        candidates.append(replace(each, plan=path))
        sparse = ", with 2:4 sparse kernels tried" if "SPARSE_WEIGHTS" in plan.key.flags else ""
        notes.append(f"{each}: engine of {len(plan.data) / 1e6:.1f} MB built by {plan.key.flavour} {plan.key.version} "
                     f"in {plan.seconds:.1f} s{sparse}")
    elsewhere = sorted({each.target.name for each in candidates if each.target.is_tensorrt and each.plan is None})
    if elsewhere:
        notes.append(f"Built on the board at first opening: {', '.join(elsewhere)}")
    return replace(state, candidates=tuple(candidates), notes=tuple(notes))


def pack_step(state: State, progress: Progress) -> State:
    """Write the bundle.

    Raises:
        SpecError: Every candidate was dropped.
    """
    recipe = state.recipe
    kept = [each for each in state.candidates if not each.dropped]
    if not kept:
        raise SpecError("No candidate is left for the bundle: " + "; ".join(
            f"{each} {each.dropped}" for each in state.candidates) + ". Allow more with [evaluate] max_drop")
    profile = _profile(state)
    sources = [source for each in kept for source in _sources(each, profile)]
    provenance = {"trtkit": __version__, "python": platform.python_version(), "model": fingerprint(state.graph),
                  "onnxruntime": probe_device().onnxruntime,
                  "calibration": {"data": state.table.data, "samples": state.table.samples} if state.table else {},
                  "left_out": {str(each): each.dropped for each in state.candidates if each.dropped}}
    options = PackOptions(name=recipe.name, preprocess=state.preprocess,
                          postprocess=recipe.postprocess or (Postprocess() if recipe.labels else None),
                          labels=recipe.labels, provenance=provenance,
                          targets={each.target.name: each.target for each in recipe.deployments},
                          compression=state.compression)
    return replace(state, manifest=pack(recipe.output, sources, options, progress))


def _sources(each: Candidate, profile: ShapeProfile | None) -> list[Source]:
    shapes = profile if each.target.is_tensorrt else None
    sources = [Source(each.target.name, each.precision, each.model, shapes, each.measurements())]
    if each.cache is not None:
        sources.append(Source(each.target.name, each.precision, each.cache))
    if each.plan is not None:
        sources.append(Source(each.target.name, each.precision, each.plan, shapes, each.measurements()))
    return sources


def _profile(state: State) -> ShapeProfile | None:
    """Return the recipe's batch sizes for the dynamic inputs; None when all sizes are fixed."""
    specs = model_inputs(state.graph)
    if all(isinstance(dim, int) for spec in specs for dim in spec.shape):
        return None
    low, mid, high = state.recipe.build.batch
    return ShapeProfile.for_batch(specs, min=low, opt=mid, max=high)
