"""The steps of compression alone: recipe -> the compressed module as safetensors and ONNX, its rows and their plot."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from trtkit.bundle.compression import CompressionRow
from trtkit.errors import MissingDependencyError, SpecError
from trtkit.files import atomic_path, atomic_write
from trtkit.graph import save_model
from trtkit.pipeline.calibration import calibrate_step
from trtkit.pipeline.checking import check_data, made_work_folder
from trtkit.pipeline.compressing import compress_step, steps_folder
from trtkit.pipeline.source import export_step, rewrite_step
from trtkit.pipeline.state import State
from trtkit.pipeline.tradeoff import plot_tradeoff
from trtkit.pipeline.training_quantized import qat_step
from trtkit.progress import Progress, silent
from trtkit.recipe import QatStep, Recipe

__all__ = ["Compressed", "compress", "tradeoff_step"]

logger = logging.getLogger(__name__)

_ROWS, _PLOT = "tradeoff.json", "tradeoff.png"


@dataclass(frozen=True)
class Compressed:
    """What the steps of compression made.

    Attributes:
        rows: The model before the first step, then one row a step.
        onnx: The compressed FP32 model; with QAT, with the trained weights.
        weights: Of the compressed torch module, for `load_module` with the last factory; None where there is none.
        table: The calibration with the trained scales, after QAT.
        plot: The trade-off as a picture; None where matplotlib is absent or nothing has a score.
        notes: What a person should read.
    """

    rows: tuple[CompressionRow, ...]
    onnx: Path
    weights: Path | None
    table: Path | None
    plot: Path | None
    notes: tuple[str, ...]


def compress(recipe: Recipe, progress: Progress = silent) -> Compressed:
    """Run the steps of [[compress]] alone and write compressed.safetensors and compressed.onnx to the work folder.

    Raises:
        SpecError: The recipe has no [[compress]].
        TrtkitError: A step failed; the work folder keeps what was done.
    """
    if not recipe.compress:
        raise SpecError(f"Recipe '{recipe.name}' has no [[compress]] section, so there is nothing to do. Add one, such "
                        "as: [[compress]] step = 'prune'")
    made_work_folder(recipe)
    check_data(recipe)
    steps: tuple[Callable[[State, Progress], State], ...] = (compress_step,)
    if recipe.qat is not None:
        steps += (export_step, rewrite_step, calibrate_step, qat_step)
    state = State(recipe)
    for step in (*steps, tradeoff_step):
        state = step(state, progress)
    onnx = recipe.work / "compressed.onnx"
    save_model(state.trained.model if state.trained else state.graph, onnx)
    table = recipe.work / "compressed.calib" if state.trained and state.trained.table else None
    if table is not None and state.trained is not None and state.trained.table is not None:
        state.trained.table.save(table)
    plot = recipe.work / _PLOT
    return Compressed(state.compression, onnx, _weights(recipe), table, plot if plot.exists() else None, state.notes)


def tradeoff_step(state: State, progress: Progress) -> State:
    """Write the rows of compression as JSON and, with matplotlib, as a picture; nothing to do without rows."""
    rows, work = state.compression, state.recipe.work
    if not rows:
        return state
    atomic_write(work / _ROWS, json.dumps([row.to_json() for row in rows], indent=1).encode())
    (work / _PLOT).unlink(missing_ok=True)
    if any(row.score is not None for row in rows):
        try:
            plot_tradeoff(rows, work / _PLOT)
        except MissingDependencyError as err:
            logger.info("No plot of the trade-off: %s", err)
    return state


def _weights(recipe: Recipe) -> Path | None:
    """Copy the weights of the last torch module beside the ONNX model."""
    in_torch = [(number, step) for number, step in enumerate(recipe.compress, 1) if not isinstance(step, QatStep)]
    if not in_torch:
        return None
    number, step = in_torch[-1]
    path = recipe.work / "compressed.safetensors"
    with atomic_path(path) as temporary:
        shutil.copyfile(steps_folder(recipe) / f"{number}-{step.name}" / "module.safetensors", temporary)
    return path
