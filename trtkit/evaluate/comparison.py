"""Two models on the same data -> a comparison: output by output, layer by layer, and against labels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from trtkit.errors import CalibrationError, SpecError
from trtkit.evaluate.accuracy import Accuracy, LabelledSample, ScoreSheet, Task, scores_of, total_of
from trtkit.evaluate.difference import Difference, DifferenceSum
from trtkit.evaluate.layers import compare_layers
from trtkit.evaluate.source import ModelSource, fed, is_bundle, open_model
from trtkit.progress import Progress, silent
from trtkit.runtime.session import Session
from trtkit.tensors import Array

__all__ = ["Comparison", "compare"]

_LAYER_SAMPLES = 8


@dataclass(frozen=True)
class Comparison:
    """How far a candidate is from its reference.

    Attributes:
        samples: How many were run through both.
        outputs: One for each output, in the reference's order.
        layers: One for each inner tensor that both have, in the reference's order; empty when not asked for.
        reference, candidate: What each scored; None where no output has the shape (1, C).
        backends: What ran the reference and the candidate.
    """

    samples: int
    outputs: tuple[Difference, ...]
    layers: tuple[Difference, ...]
    reference: Accuracy | None
    candidate: Accuracy | None
    backends: tuple[str, str]

    def worst_layers(self) -> tuple[Difference, ...]:
        """Return the layers, the lowest signal to noise ratio first."""
        return tuple(sorted(self.layers, key=lambda each: each.sqnr_db))


def compare(reference: ModelSource, candidate: ModelSource, data: Iterable[LabelledSample], *, layers: bool = False,
            layer_samples: int = _LAYER_SAMPLES, task: Task = Task.CLASSIFY, threshold: float = 0.5,
            threads: int | None = None, progress: Progress = silent) -> Comparison:
    """Run both models on the data and compare what they make of it.

    Args:
        reference: ONNX file or bytes, bundle, or session; usually the FP32 model.
        candidate: The same, usually a lowering of it. Outputs are paired by name, or in order when no name is shared.
        data: Samples with batch dimension 1; read twice when `layers` is set.
        layers: Compare inner tensors as well; both must be ONNX.
        layer_samples: How many samples to compare layers on.
        task: What labels mean.
        threshold: From which score on a label counts as predicted (multi-label).
        threads: For ONNX Runtime; its own choice when None.
        progress: Told how many samples are done.

    Raises:
        CalibrationError: There is no sample.
        SpecError: The models or the data do not fit each other, or layers of something other than ONNX are asked for.
        GraphError: The models share no inner tensor.
    """
    onnx_models = (_onnx(reference), _onnx(candidate)) if layers else None
    first, second = open_model(reference, threads=threads), open_model(candidate, threads=threads)
    pairs = _paired(first, second)
    sums = {name: DifferenceSum(name) for name in pairs}
    sheets: tuple[ScoreSheet, ScoreSheet] | None = None
    count, total = 0, total_of(data)
    for count, sample in enumerate(data, start=1):
        wanted = first.run(fed(first, sample.feeds))
        got = second.run(fed(second, sample.feeds))
        for name, other in pairs.items():
            sums[name].add(wanted[name], got[other])
        if count == 1:
            sheets = _sheets(wanted, pairs, task, threshold)
        if sheets is not None:
            sheets[0].add(sample, wanted)
            sheets[1].add(sample, got)
        progress("Comparing outputs", count, total)
    if not count:
        raise CalibrationError("There is no sample to compare on. Give a data source that is not empty")
    inner = compare_layers(onnx_models[0], onnx_models[1], list(islice(data, layer_samples)), threads=threads,
                           progress=progress) if onnx_models else ()
    return Comparison(count, tuple(each.result() for each in sums.values()), inner,
                      sheets[0].judge() if sheets else None, sheets[1].judge() if sheets else None,
                      (first.backend, second.backend))


def _paired(first: Session, second: Session) -> dict[str, str]:
    """Return the candidate's output for each of the reference's."""
    left, right = [spec.name for spec in first.outputs], [spec.name for spec in second.outputs]
    if set(left) <= set(right):
        return {name: name for name in left}
    if not set(left) & set(right) and len(left) == len(right):
        return dict(zip(left, right))
    raise SpecError(f"The reference returns {', '.join(left)} and the candidate {', '.join(right)}: these cannot be "
                    "paired. Compare a model with its own lowering")


def _sheets(outputs: Mapping[str, Array], pairs: Mapping[str, str], task: Task,
            threshold: float) -> tuple[ScoreSheet, ScoreSheet] | None:
    name = scores_of(outputs)
    if name is None:
        return None
    return (ScoreSheet(task=task, output=name, threshold=threshold),
            ScoreSheet(task=task, output=pairs[name], threshold=threshold))


def _onnx(source: ModelSource) -> bytes | Path:
    if isinstance(source, bytes) or (isinstance(source, Path) and not is_bundle(source)):
        return source
    raise SpecError("Layers can be compared in ONNX models only, and one of both is a bundle or a session. "
                    "Give two ONNX files")
