"""The steps in order, and the function that runs them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType

from trtkit.bundle.manifest import BundleManifest
from trtkit.files import require_folder
from trtkit.pipeline.building import build_step, pack_step
from trtkit.pipeline.calibration import calibrate_step
from trtkit.pipeline.checking import check_data, made_work_folder
from trtkit.pipeline.compressing import compress_step
from trtkit.pipeline.compression import tradeoff_step
from trtkit.pipeline.lowering import lower_step
from trtkit.pipeline.measuring import evaluate_step, measure_step
from trtkit.pipeline.source import export_step, rewrite_step
from trtkit.pipeline.state import Candidate, State
from trtkit.pipeline.training_quantized import qat_step
from trtkit.progress import Progress, silent
from trtkit.recipe import Recipe

__all__ = ["STEPS", "Deployed", "deploy"]

logger = logging.getLogger(__name__)

Step = Callable[[State, Progress], State]

STEPS: MappingProxyType[str, Step] = MappingProxyType({
    "compress": compress_step,
    "export": export_step,
    "rewrite": rewrite_step,
    "calibrate": calibrate_step,
    "qat": qat_step,
    "trade-off": tradeoff_step,
    "lower": lower_step,
    "evaluate": evaluate_step,
    "measure": measure_step,
    "build": build_step,
    "pack": pack_step,
})
"""Every step by name, in order."""


@dataclass(frozen=True)
class Deployed:
    """What a deployment made.

    Attributes:
        recipe: What was wanted.
        manifest: Of the bundle at recipe.output.
        candidates: Every target and precision, those left out as well.
        reference_top1, reference_top5: Of the FP32 model, shares from 0 to 1; None without labels.
        notes: What a person should read.
    """

    recipe: Recipe
    manifest: BundleManifest
    candidates: tuple[Candidate, ...]
    reference_top1: float | None
    reference_top5: float | None
    notes: tuple[str, ...]


def deploy(recipe: Recipe, progress: Progress = silent) -> Deployed:
    """Run every step of a recipe and write its bundle.

    Intermediate files stay in `recipe.work`; a second run uses the calibration table and the steps of compression
    again where nothing changed, and an interrupted sweep or training goes on where it stopped.

    Raises:
        TrtkitError: A step failed; the bundle at recipe.output, if there was one, is untouched.
    """
    made_work_folder(recipe)
    require_folder(recipe.output)
    check_data(recipe)
    state = State(recipe)
    for number, (name, step) in enumerate(STEPS.items()):
        progress("Deploying", number, len(STEPS))
        logger.info("Step %s", name)
        state = step(state, progress)
    progress("Deploying", len(STEPS), len(STEPS))
    assert state.manifest is not None
    reference = state.reference
    return Deployed(recipe, state.manifest, state.candidates, reference.top1 if reference else None,
                    reference.top5 if reference else None, state.notes)
