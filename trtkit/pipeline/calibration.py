"""Step `calibrate`: FP32 graph + data -> table, kept in the work folder and used again while it is not stale."""

from __future__ import annotations

import logging
from dataclasses import replace

from trtkit.calib import DataSource, audit, calibrate, open_data
from trtkit.errors import CalibrationError, SpecError
from trtkit.graph import fingerprint, model_inputs
from trtkit.pipeline.state import State
from trtkit.precision import Precision
from trtkit.progress import Progress
from trtkit.ranges import CalibrationTable
from trtkit.tensors import TensorSpec

__all__ = ["calibrate_step", "image_input", "source_of"]

logger = logging.getLogger(__name__)


def calibrate_step(state: State, progress: Progress) -> State:
    """Sweep once over the data; an interrupted sweep goes on where it stopped. Nothing to do where all is FP32."""
    sweep = state.recipe.calibrate
    precisions = {precision for each in state.recipe.deployments for precision in each.precisions}
    if sweep is None or precisions == {Precision.FP32}:  # FP16 reads from the table what overflows
        return state
    data = source_of(state, sweep.data, sweep.limit)
    path = state.recipe.work / "calibration.table"
    part = path.with_name(f"{path.name}.part")
    kept = table = _kept(state, data)
    if table is None:
        try:
            table = calibrate(state.graph, data, batch=sweep.batch, checkpoint=part, progress=progress)
        except CalibrationError as err:
            if not part.exists() or str(part) not in str(err):
                raise
            part.unlink()  # of another model or other data: begin anew
            table = calibrate(state.graph, data, batch=sweep.batch, checkpoint=part, progress=progress)
        table.save(path)
        part.unlink(missing_ok=True)
    notes = [f"Calibrated on {table.samples} samples, {len(table.tensors)} tensors"
             + (" in an earlier run; nothing changed since" if kept is not None else "")]
    if data.unreadable:
        notes.append(f"Unreadable, left out of the calibration: {', '.join(data.unreadable)}")
    notes += [f"{finding.severity.value.capitalize()}: {f'{finding.where}: ' if finding.where else ''}"
              f"{finding.message}. {finding.fix}"
              for finding in audit(table, inputs=model_inputs(state.graph), data=data)]
    return replace(state, table=table, notes=(*state.notes, *notes))


def source_of(state: State, data: str, limit: int | None) -> DataSource:
    """Return the samples of a recipe's data, prepared as the host does it."""
    return open_data(data, input=image_input(state), preprocess=state.preprocess, limit=limit)


def image_input(state: State) -> TensorSpec:
    """Return the input that images go into: the one of the highest rank.

    Raises:
        SpecError: The model has no inputs.
    """
    specs = model_inputs(state.graph)
    if not specs:
        raise SpecError("The model has no inputs, so there is nothing to feed. Export it with its inputs")
    return max(specs, key=lambda spec: len(spec.shape))


def _kept(state: State, data: DataSource) -> CalibrationTable | None:
    """Return the table of an earlier run when it was made from this very model, data and preprocessing."""
    path = state.recipe.work / "calibration.table"
    if not path.exists():
        return None
    try:
        table = CalibrationTable.load(path)
        table.check(model=fingerprint(state.graph), data=data.fingerprint(),
                    preprocess=data.preprocess.fingerprint() if data.preprocess else "")
    except CalibrationError as err:
        logger.info("Calibrating anew: %s", err)
        return None
    return table
