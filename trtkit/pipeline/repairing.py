"""A candidate that loses more than the recipe allows -> the same with as few layers in float as bring it back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import onnx

from trtkit.errors import AccuracyError
from trtkit.evaluate import Accuracy, Loss, Task, loss_of
from trtkit.files import atomic_write
from trtkit.findings import some_of
from trtkit.graph import rewrite
from trtkit.pipeline.calibration import source_of
from trtkit.pipeline.source import own_passes
from trtkit.pipeline.state import Candidate, State
from trtkit.precision import Precision
from trtkit.progress import Progress
from trtkit.quant.budget.search import WithinBudget, lower_within
from trtkit.quant.budget.sensitivity import LayerLoss, with_kept
from trtkit.quant.lower import Lowered, lower
from trtkit.ranges import CalibrationTable
from trtkit.recipe import EvaluateSection

__all__ = ["Repairs", "task_of"]

_SAMPLES = 8
_WHOLE = (Precision.FP32, Precision.FP16, Precision.BF16)
"""Precisions in which no layer is quantized, so none could be kept from it."""


def task_of(state: State) -> Task:
    """Return what the labels of the evaluation data mean."""
    postprocess = state.recipe.postprocess
    return Task.MULTI_LABEL if postprocess and postprocess.task == "multi-label" else Task.CLASSIFY


@dataclass
class Repairs:
    """Repairs candidates one after the other; what is equal for several targets is searched once.

    Attributes:
        state: The deployment so far.
        section: Where the evaluation data is, and the budget.
        judge: The accuracy of a model on that data, for a candidate.
        reference: That of FP32.
    """

    state: State
    section: EvaluateSection
    judge: Callable[[bytes, Candidate], Accuracy]
    reference: Accuracy
    _kept: dict[bytes, tuple[LayerLoss, ...]] = field(default_factory=dict)

    def repair(self, each: Candidate, progress: Progress) -> tuple[Candidate, str]:
        """Return the candidate within the budget, and a note on what was kept in float and why.

        Raises:
            AccuracyError: No set of layers brings it back, or its target cannot keep single layers in float.
        """
        if each.precision in _WHOLE or each.target.typing == "weak":
            raise AccuracyError(f"{each} has no layers that could be kept in float one by one. Allow more with "
                                "[evaluate] max_drop, or leave it out")
        before = loss_of(self.judge(each.lowered.simulation, each), self.reference)
        graph, table = self.state.quantized_from(each.precision)
        model = rewrite(graph, own_passes(self.state.recipe, each.target)).model
        spec = self.state.recipe.quantize
        kept = self._kept.get(each.lowered.simulation)
        if kept is None:
            found = self._search(each, model, table, progress)
            self._kept[each.lowered.simulation] = kept = found.kept
            lowered = found.lowered
        else:
            lowered = lower(model, each.target, each.precision, table=table,
                            spec=with_kept(spec, [layer.name for layer in kept]))
        path = self.state.recipe.work / f"{each.target.name}-{each.precision.value}-repaired.onnx"
        atomic_write(path, lowered.model)
        accuracy = self.judge(lowered.simulation, each)
        repaired = replace(each, lowered=lowered, model=path, accuracy=accuracy,
                           agreement=accuracy.agreement(self.reference),
                           kept=tuple(layer.name for layer in kept))
        return repaired, _note(each, before, loss_of(accuracy, self.reference), kept)

    def _search(self, each: Candidate, model: onnx.ModelProto, table: CalibrationTable | None,
                progress: Progress) -> WithinBudget:
        def judge(lowered: Lowered) -> Loss:
            return loss_of(self.judge(lowered.simulation, each), self.reference)

        state, postprocess = self.state, self.state.recipe.postprocess
        return lower_within(model, each.target, each.precision, judge, self.section.max_drop,
                            samples=source_of(state, self.section.data, _SAMPLES), table=table,
                            spec=state.recipe.quantize, task=task_of(state),
                            output=postprocess.output if postprocess else None, progress=progress,
                            checkpoint=state.recipe.work / f"{each.target.name}-{each.precision.value}.sensitivity")


def _note(each: Candidate, before: Loss, after: Loss, kept: tuple[LayerLoss, ...]) -> str:
    layers = some_of([f"{layer.name} ({layer.sqnr_db:.1f} dB)" for layer in kept])
    return (f"{each}: lost {before.points:.1f} points with every layer quantized; loses {after.points:.1f} with "
            f"{len(kept)} in float, named with the SQNR of the output when that layer alone is quantized: "
            f"{layers}")
