"""A model that runs + labelled data -> top-1 and top-5, or multi-label F1 and mAP; scores are kept for agreement."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

import numpy as np

from trtkit import metrics
from trtkit.errors import CalibrationError, SpecError
from trtkit.progress import Progress, silent
from trtkit.tensors import Array, Feeds

__all__ = ["Accuracy", "LabelledSample", "Run", "ScoreSheet", "Task", "evaluate", "scores_of", "total_of"]

Run = Callable[[Feeds], Mapping[str, Array]]


class LabelledSample(Protocol):
    """What is read of a sample; trtkit.calib.Sample is one."""

    @property
    def name(self) -> str: ...

    @property
    def feeds(self) -> Feeds: ...

    @property
    def labels(self) -> tuple[int, ...] | None: ...


class Task(str, Enum):
    """What labels mean."""

    CLASSIFY = "classify"
    """Each label of a sample is accepted as the one right answer: top-1 and top-5."""
    MULTI_LABEL = "multi-label"
    """All labels of a sample are present at once: F1 and mAP."""


@dataclass(frozen=True)
class Accuracy:
    """What a model scored on a data set.

    Attributes:
        output: Name of the output that was judged.
        samples: How many were run.
        labelled: How many of them have labels; the metrics are over these.
        top1, top5: Shares from 0 to 1; None without labels or for another task.
        f1_micro, f1_macro, mean_average_precision: From 0 to 1; None without labels or for another task.
        names: Of the samples, in order.
        scores: Shape (samples, C), float32.
    """

    output: str
    samples: int
    labelled: int
    top1: float | None
    top5: float | None
    f1_micro: float | None
    f1_macro: float | None
    mean_average_precision: float | None
    names: tuple[str, ...] = field(repr=False)
    scores: Array = field(repr=False, compare=False)

    def agreement(self, reference: Accuracy) -> float:
        """Return the share of samples on which both put the same class first.

        Raises:
            SpecError: Both were not made of the same samples.
        """
        if self.names != reference.names:
            raise SpecError(f"Agreement is over the same samples in the same order; these are {self.samples} and "
                            f"{reference.samples} different ones. Evaluate both on one data source")
        return metrics.agreement(self.scores, reference.scores)


class ScoreSheet:
    """Gathers the scores of one output sample by sample, and judges them at the end.

    Args:
        task: What labels mean.
        output: Which output to judge; the first one of shape (1, C) when None.
        threshold: From which score on a label counts as predicted, in the units of the scores (multi-label).
    """

    def __init__(self, *, task: Task = Task.CLASSIFY, output: str | None = None, threshold: float = 0.5) -> None:
        self.task, self.output, self.threshold = task, output, threshold
        self._names: list[str] = []
        self._scores: list[Array] = []
        self._labels: list[tuple[int, ...] | None] = []

    def add(self, sample: LabelledSample, outputs: Mapping[str, Array]) -> None:
        """Take one sample's outputs.

        Raises:
            SpecError: There is no such output, or it is not (1, C).
        """
        if self.output is None:
            self.output = scores_of(outputs)
        scores = outputs.get(self.output) if self.output is not None else None
        if scores is None or scores.ndim != 2 or scores.shape[0] != 1:
            shapes = ", ".join(f"{name}{array.shape}" for name, array in outputs.items())
            raise SpecError(f"Sample '{sample.name}': no output {self.output or ''} of shape (1, C) to judge. "
                            f"The model returns: {shapes}")
        self._names.append(sample.name)
        self._scores.append(np.asarray(scores[0], np.float32))
        self._labels.append(sample.labels)

    def judge(self) -> Accuracy:
        """Return the metrics over everything that was added.

        Raises:
            CalibrationError: Nothing was.
            SpecError: A label is no class of the model.
        """
        if not self._scores or self.output is None:
            raise CalibrationError("There is no sample to evaluate on. Give a data source that is not empty")
        scores = np.stack(self._scores)
        labelled = [(row, labels) for row, labels in zip(scores, self._labels) if labels is not None]
        top1 = top5 = micro = macro = mean_ap = None
        if labelled:
            rows, labels = np.stack([row for row, _ in labelled]), [each for _, each in labelled]
            if self.task is Task.CLASSIFY:
                top1, top5 = metrics.top_k_accuracy(rows, labels, 1), metrics.top_k_accuracy(rows, labels, 5)
            else:
                truth = _truth(labels, rows.shape[1])
                micro, macro = (metrics.f1(rows, truth, threshold=self.threshold, average=average)
                                for average in ("micro", "macro"))
                mean_ap = metrics.mean_average_precision(rows, truth)
        return Accuracy(self.output, len(scores), len(labelled), top1, top5, micro, macro, mean_ap,
                        tuple(self._names), scores)


def evaluate(run: Run, data: Iterable[LabelledSample], *, task: Task = Task.CLASSIFY, output: str | None = None,
             threshold: float = 0.5, progress: Progress = silent) -> Accuracy:
    """Return how well a model does on data.

    Args:
        run: Outputs by name for feeds by name, such as `session.run`.
        data: Samples with batch dimension 1, such as a DataSource.
        task: What labels mean.
        output: Which output to judge; the first one of shape (1, C) when None.
        threshold: From which score on a label counts as predicted, in the units of the scores (multi-label).
        progress: Told how many samples are done.

    Raises:
        CalibrationError: There is no sample.
        SpecError: No output can be judged, or a label is no class of the model.
    """
    sheet = ScoreSheet(task=task, output=output, threshold=threshold)
    total = total_of(data)
    for done, sample in enumerate(data, start=1):
        sheet.add(sample, run(sample.feeds))
        progress("Evaluating", done, total)
    return sheet.judge()


def scores_of(outputs: Mapping[str, Array]) -> str | None:
    """Return the name of the first output of shape (1, C) with C > 1 and a float dtype; None when there is none."""
    return next((name for name, array in outputs.items()
                 if array.ndim == 2 and array.shape[0] == 1 and array.shape[1] > 1 and array.dtype.kind == "f"), None)


def total_of(data: Iterable[LabelledSample]) -> int | None:
    """Return how many samples there are; None when that is not known before the end."""
    try:
        return len(data)  # type: ignore[arg-type]  # whether it has a length is what is asked
    except TypeError:
        return None


def _truth(labels: Sequence[tuple[int, ...]], classes: int) -> Array:
    truth = np.zeros((len(labels), classes), bool)
    for row, each in enumerate(labels):
        if each and not 0 <= min(each) <= max(each) < classes:
            raise SpecError(f"Sample {row} has labels {each}; the model scores classes 0 to {classes - 1}. "
                            "Label each sample with classes of the model")
        truth[row, list(each)] = True
    return truth
