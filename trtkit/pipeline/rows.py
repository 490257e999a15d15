"""An FP32 ONNX model after a step of compression -> its row: score, MACs, parameters, bytes and latency."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import onnx

from trtkit.bundle.compression import CompressionRow
from trtkit.calib import calibrate
from trtkit.evaluate import Accuracy, loss_of
from trtkit.graph import model_inputs, rewrite
from trtkit.pipeline.calibration import source_of
from trtkit.pipeline.measuring import accuracy_of
from trtkit.pipeline.source import own_passes, shared_passes
from trtkit.pipeline.state import State
from trtkit.precision import Precision
from trtkit.preprocess import Preprocess
from trtkit.progress import Progress
from trtkit.quant.budget.macs import count_macs
from trtkit.quant.lower import lower
from trtkit.ranges import CalibrationTable
from trtkit.recipe import Recipe
from trtkit.runtime.bench import bench, paired, random_feeds
from trtkit.runtime.ort import OrtSession
from trtkit.runtime.probe import probe_device
from trtkit.target import Target

__all__ = ["Measuring", "parameters_in"]

_SAMPLES = 8
"""That INT8 is calibrated on where only its speed is asked for."""


@dataclass(frozen=True)
class Measuring:
    """Measures one model after the other, and each one's speed in turns with the first.

    Attributes:
        recipe: Where the data is, and how models are lowered.
        start: Returns the model before the first step, and its preprocessing.
        progress: Told of the samples.
    """

    recipe: Recipe
    start: Callable[[], tuple[onnx.ModelProto, Preprocess | None]]
    progress: Progress

    @property
    def settings(self) -> str:
        """A hash of all that a row depends on besides the model."""
        recipe, here = self.recipe, self.here
        asked = (recipe.evaluate, recipe.calibrate, recipe.preprocess, recipe.postprocess, recipe.rewrite,
                 recipe.quantize, recipe.deployments, here and here.name)
        return hashlib.sha256(repr(asked).encode()).hexdigest()[:16]

    @cached_property
    def here(self) -> Target | None:
        """The first CPU target of the recipe that this machine is, one that is to run INT8 before others."""
        device = probe_device()
        found = [each for each in self.recipe.deployments if each.target.runs_on(device.machine, device.cpu_flags)]
        found.sort(key=lambda each: Precision.INT8 not in each.precisions)
        return found[0].target if found else None

    def row(self, step: str, model: onnx.ModelProto, preprocess: Preprocess | None, parameters: int, *,
            first: CompressionRow | None = None) -> CompressionRow:
        """Return the row of a model in FP32, with the INT8 latency beside it where this machine is such a target.

        Args:
            step: Name of the row.
            model: As it was exported.
            preprocess: How a picture becomes its input.
            parameters: Values in its weights.
            first: Row of the model before the first step; None when this is that model.
        """
        state = self._rewritten(model, preprocess)
        fp32, int8 = self._in_fp32(state), self._in_int8(state)
        metric, score = self._score(state, fp32)
        row = CompressionRow(step, metric, score, self._macs(state), parameters, len(fp32), None, None)
        if self.here is None:
            return row
        if first is None or first.fp32_ms is None:
            fp32_ms = _alone(fp32)
            return replace(row, fp32_ms=fp32_ms, int8_ms=None if int8 is None else fp32_ms / _ratio(fp32, int8))
        start = self._start_bytes
        return replace(row, fp32_ms=first.fp32_ms / _ratio(start, fp32),
                       int8_ms=None if int8 is None else first.fp32_ms / _ratio(start, int8))

    def quantized_row(self, step: str, state: State, target: Target, precision: Precision, *,
                      before: CompressionRow, first: CompressionRow) -> CompressionRow:
        """Return the row of a model that was trained on integer grids: score, bytes and latency are the lowered one's.

        Args:
            step: Name of the row.
            state: Holds the trained model.
            target, precision: Whose grids.
            before, first: Row of the model before, and of the one before the first step.
        """
        graph, table = state.quantized_from(precision)
        lowered = lower(rewrite(graph, own_passes(self.recipe, target)).model, target, precision, table=table,
                        spec=self.recipe.quantize)
        metric, score = self._score(state, lowered.simulation)
        device, speed = probe_device(), None
        if first.fp32_ms is not None and target.runs_on(device.machine, device.cpu_flags):
            speed = first.fp32_ms / _ratio(self._start_bytes, lowered.model)
        return CompressionRow(step, metric, score, before.macs, before.parameters, len(lowered.model), None, speed)

    @cached_property
    def _start_state(self) -> State:
        return self._rewritten(*self.start())

    @cached_property
    def _start_bytes(self) -> bytes:
        return self._in_fp32(self._start_state)

    @cached_property
    def _reference(self) -> Accuracy:
        section = self.recipe.evaluate
        assert section is not None
        return accuracy_of(self._start_state, section, self._start_bytes, self.progress)

    def _rewritten(self, model: onnx.ModelProto, preprocess: Preprocess | None) -> State:
        graph = rewrite(model, [*self.recipe.rewrite.passes, *shared_passes(self.recipe)]).model
        return State(self.recipe, model=graph, preprocess=preprocess)

    def _in_fp32(self, state: State) -> bytes:
        target = self.here or self.recipe.deployments[0].target
        if Precision.FP32 not in target.precisions:
            data: bytes = state.graph.SerializeToString()
            return data
        return lower(rewrite(state.graph, own_passes(self.recipe, target)).model, target, Precision.FP32).simulation

    def _in_int8(self, state: State) -> bytes | None:
        """Return the INT8 model for this machine; None where the recipe wants none here."""
        sweep, wanted = self.recipe.calibrate, {each.target: each.precisions for each in self.recipe.deployments}
        if self.here is None or sweep is None or Precision.INT8 not in wanted[self.here]:
            return None
        table: CalibrationTable = calibrate(state.graph, source_of(state, sweep.data, _SAMPLES), progress=self.progress)
        return lower(rewrite(state.graph, own_passes(self.recipe, self.here)).model, self.here, Precision.INT8,
                     table=table, spec=self.recipe.quantize).model

    def _score(self, state: State, model: bytes) -> tuple[str, float | None]:
        section = self.recipe.evaluate
        if section is None:
            return "", None
        loss = loss_of(accuracy_of(state, section, model, self.progress), self._reference)
        return loss.metric, loss.value / 100

    def _macs(self, state: State) -> int:
        shapes = {spec.name: tuple(dim if isinstance(dim, int) else 1 for dim in spec.shape)
                  for spec in model_inputs(state.graph)}
        return sum(count_macs(state.graph, shapes).values())


def parameters_in(model: onnx.ModelProto) -> int:
    """Return how many floating-point values the weights of an ONNX model hold."""
    floats = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE)
    return sum(int(np.prod(tensor.dims)) for tensor in model.graph.initializer if tensor.data_type in floats)


def _alone(model: bytes) -> float:
    session = OrtSession(model)
    try:
        return bench(session, random_feeds(session.inputs)).p50_ms
    finally:
        session.close()


def _ratio(first: bytes, second: bytes) -> float:
    """Return how many times faster the second model is, measured in turns; each on inputs of its own size."""
    a, b = OrtSession(first), OrtSession(second)
    try:
        return paired(a, b, random_feeds(a.inputs), random_feeds(b.inputs)).ratio
    finally:
        a.close()
        b.close()
