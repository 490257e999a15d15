"""Model + accuracy budget -> the lowering that keeps as little work in float as the budget allows.

Layers are kept in float in the order of the noise that they make for the work that INT8 would save on them. The number
of layers is doubled until the task metric holds and then bisected; at last the layers with the most work are tried in
INT8 again. Each trial is one evaluation on real data, so that neither the order nor the additivity of noise decides.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import onnx

from trtkit.errors import AccuracyError, SpecError
from trtkit.evaluate.accuracy import LabelledSample, Task
from trtkit.evaluate.loss import Loss
from trtkit.precision import Precision, QuantSpec
from trtkit.progress import Progress, silent
from trtkit.quant.budget.macs import count_macs
from trtkit.quant.budget.sensitivity import LayerLoss, Sensitivity, measure_sensitivity, quantized_layers, with_kept
from trtkit.quant.index import node_name
from trtkit.quant.lower import Lowered, lower
from trtkit.ranges import CalibrationTable
from trtkit.target import Target

__all__ = ["Trial", "WithinBudget", "lower_within"]

logger = logging.getLogger(__name__)

_ISLAND = 0.1
"""What a layer in float costs besides its own work, as a share of the mean work of a layer: conversions around it."""

_PUT_BACKS = 6
_DEFAULT = QuantSpec()


@dataclass(frozen=True)
class Trial:
    """One evaluation of the search.

    Attributes:
        kept: How many layers were in float.
        loss: What was lost.
    """

    kept: int
    loss: Loss


@dataclass(frozen=True)
class WithinBudget:
    """A lowering that holds the budget, and how it was found.

    Attributes:
        lowered: The model as the target gets it.
        kept: Layers that stay in float, with the noise that they would make, the worst first.
        loss: What it loses.
        trials: Every evaluation in order; the first one is of the model with no layer kept.
        sensitivity: Of all layers; None where nothing had to be kept.
        quantized_macs: Share of all multiply-accumulates that are quantized, 0 to 1.
    """

    lowered: Lowered
    kept: tuple[LayerLoss, ...]
    loss: Loss
    trials: tuple[Trial, ...]
    sensitivity: Sensitivity | None
    quantized_macs: float

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-able dict, without the model itself."""
        return {
            "target": self.lowered.target, "precision": self.lowered.precision.value,
            "metric": self.loss.metric, "reference": self.loss.reference, "value": self.loss.value,
            "lost": self.loss.points, "quantized_macs": self.quantized_macs,
            "kept": [asdict(each) for each in self.kept],
            "trials": [{"kept": each.kept, "value": each.loss.value, "lost": each.loss.points}
                       for each in self.trials],
            "sensitivity": self.sensitivity.to_json() if self.sensitivity else None,
        }


def lower_within(model: onnx.ModelProto, target: Target, precision: Precision, judge: Callable[[Lowered], Loss],
                 max_drop: float, *, samples: Iterable[LabelledSample], table: CalibrationTable | None = None,
                 spec: QuantSpec = _DEFAULT, task: Task = Task.CLASSIFY, output: str | None = None,
                 checkpoint: Path | None = None, progress: Progress = silent) -> WithinBudget:
    """Return the lowering with the least work in float whose loss stays inside the budget.

    Args:
        model: FP32, rewritten for this target.
        target, precision: What it is lowered for. The layers that are kept run in what the precision has for the rest:
            FP16 in INT8_FP16, FP32 in INT8.
        judge: The loss of a lowering in the metric that counts, on data that tells: trtkit.evaluate.Judge on its
            `simulation`, or a function of your own. Called once a trial, about 2 log2(kept layers) + 8 times.
        max_drop: Most points that may be lost.
        samples: A few real ones, for the sensitivity of layers; not read when no layer has to be kept.
        table: Calibration of this very model, where the precision needs one.
        spec: How to quantize; what it keeps in float stays there.
        task, output: What labels mean and which output has the scores, for the sensitivity.
        checkpoint: File that keeps the sensitivity while it is measured; see measure_sensitivity.
        progress: Told of layers and trials done.

    Raises:
        AccuracyError: The budget does not hold with every layer in float, or holds only then.
        SpecError: max_drop is negative, there is no sample, nothing of the model is quantized, or the target's TensorRT
            takes precisions from builder flags, which hold for the whole network.
    """
    if not max_drop >= 0:
        raise SpecError(f"max_drop is {max_drop}. Give points of the task metric, 0 or more")
    if target.typing == "weak":
        raise SpecError(f"Target '{target.name}' takes its precision from a builder flag and its scales from a cache, "
                        "which hold for the whole network, so no layer can be kept in float. Try other estimators, "
                        "calibrate on more data, or lower to fp16")
    samples = list(samples)
    if not samples:
        raise SpecError("There is no sample to rank the layers on. Give a few real ones")
    search = _Search(model, target, precision, judge, max_drop, table, spec, progress)
    if search.holds(()):
        return search.result((), None, samples)
    sensitivity = measure_sensitivity(model, target, precision, samples=samples, table=table, spec=spec, task=task,
                                      output=output, checkpoint=checkpoint, progress=progress)
    kept = search.smallest(_by_gain(sensitivity.layers))
    return search.result(tuple(sorted(kept, key=lambda each: -each.noise)), sensitivity, samples)


def _by_gain(layers: tuple[LayerLoss, ...]) -> tuple[LayerLoss, ...]:
    """Return the layers, first the one that takes away the most noise for the work that it brings into float."""
    mean = max(sum(each.macs for each in layers) / len(layers), 1.0)
    return tuple(sorted(layers, key=lambda each: -each.noise / (each.macs / mean + _ISLAND)))


class _Search:
    """Tries sets of kept layers, each once."""

    def __init__(self, model: onnx.ModelProto, target: Target, precision: Precision,
                 judge: Callable[[Lowered], Loss], max_drop: float, table: CalibrationTable | None, spec: QuantSpec,
                 progress: Progress) -> None:
        self._model, self._target, self._precision = model, target, precision
        self._judge, self._max_drop, self._table, self._spec = judge, max_drop, table, spec
        self._progress = progress
        self._tried: dict[frozenset[str], Loss] = {}

    def holds(self, kept: Collection[LayerLoss]) -> bool:
        """Whether the budget holds with these layers in float."""
        names = frozenset(each.name for each in kept)
        if names not in self._tried:
            self._progress("Trying sets of layers", len(self._tried), None)
            loss = self._tried[names] = self._judge(self._lower(names))
            logger.info("%d layers in float: %s", len(names), loss)
        return self._tried[names].points <= self._max_drop

    def smallest(self, order: tuple[LayerLoss, ...]) -> tuple[LayerLoss, ...]:
        """Return few layers that hold when they are in float: a beginning of `order`, some of them put back.

        Raises:
            AccuracyError: There are none that leave a layer quantized.
        """
        kept = self._put_back(self._shortest(order))
        if len(kept) == len(order):
            raise self._refusal("unless all", order)
        return kept

    def _shortest(self, order: tuple[LayerLoss, ...]) -> tuple[LayerLoss, ...]:
        """Return the shortest beginning of `order` that holds, found by doubling and bisection."""
        fails, holds = 0, 1
        while not self.holds(order[:holds]):
            if holds == len(order):
                raise self._refusal("with all", order)
            fails, holds = holds, min(2 * holds, len(order))
        while holds - fails > 1:
            middle = (fails + holds) // 2
            if self.holds(order[:middle]):
                holds = middle
            else:
                fails = middle
        return order[:holds]

    def _put_back(self, kept: tuple[LayerLoss, ...]) -> tuple[LayerLoss, ...]:
        """Return `kept` without the layers that need not be there, tried from the most work on.

        The last layer is needed: without it the budget did not hold.
        """
        for layer in sorted(kept[:-1], key=lambda each: -each.macs)[:_PUT_BACKS]:
            fewer = tuple(each for each in kept if each is not layer)
            if self.holds(fewer):
                kept = fewer
        return kept

    def result(self, kept: tuple[LayerLoss, ...], sensitivity: Sensitivity | None,
               samples: list[LabelledSample]) -> WithinBudget:
        names = frozenset(each.name for each in kept)
        trials = tuple(Trial(len(each), loss) for each, loss in self._tried.items())
        lowered = self._lower(names)
        return WithinBudget(lowered, kept, self._tried[names], trials, sensitivity, self._share(lowered, samples))

    def _share(self, lowered: Lowered, samples: list[LabelledSample]) -> float:
        shapes = {name: array.shape for name, array in samples[0].feeds.items()}
        macs = count_macs(self._model, shapes)
        quantized = quantized_layers(self._model, onnx.load_from_string(lowered.simulation))
        return sum(macs.get(node_name(node), 0) for node in quantized) / max(sum(macs.values()), 1)

    def _lower(self, names: frozenset[str]) -> Lowered:
        return lower(self._model, self._target, self._precision, table=self._table,
                     spec=with_kept(self._spec, sorted(names)))

    def _refusal(self, how: str, order: tuple[LayerLoss, ...]) -> AccuracyError:
        first, last = (self._tried[frozenset(each.name for each in some)] for some in ((), order))
        worst = ", ".join(f"'{each.name}'" for each in sorted(order, key=lambda each: -each.noise)[:3])
        return AccuracyError(
            f"{self._precision.value} for '{self._target.name}' cannot stay within {self._max_drop} points: it loses "
            f"{first.points:.2f} ({first}), and {last.points:.2f} {how} {len(order)} layers in float. The noisiest are "
            f"{worst}. Allow more points, calibrate on more and more typical data, or ship "
            f"{'fp32' if self._target.device == 'cpu' else 'fp16 or fp32'}")
