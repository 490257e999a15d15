"""What a model scored beside its reference -> how many points of the task metric it loses."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from trtkit.errors import CalibrationError, SpecError
from trtkit.evaluate.accuracy import Accuracy, LabelledSample, ScoreSheet, Task, scores_of, total_of
from trtkit.evaluate.source import ModelSource, fed, open_model
from trtkit.progress import Progress, silent
from trtkit.tensors import Array

__all__ = ["Judge", "Loss", "StepSheet", "Steps", "loss_of", "sheet_for"]


@dataclass(frozen=True)
class Loss:
    """How a model does on its task, beside its reference.

    Attributes:
        metric: "top-1" or "mAP" where samples have labels, else "agreement", or a name of the caller's own.
        value: What the model scored, in points from 0 to 100.
        reference: What the reference scored, in the same points.
    """

    metric: str
    value: float
    reference: float

    @property
    def points(self) -> float:
        """How many points are lost; negative when the model does better than its reference."""
        return self.reference - self.value

    def __str__(self) -> str:
        return f"{self.metric} {self.value:.2f} of {self.reference:.2f}"


@dataclass(frozen=True)
class Steps:
    """The best class of every step of every sample, such as the letters that a text recognizer sees.

    Attributes:
        winners: One array of shape (1, T) a sample, class ids.
    """

    winners: tuple[Array, ...] = field(repr=False)

    def agreement(self, reference: Steps) -> float:
        """Return the share of steps with the same best class, the mean over samples; other lengths agree nowhere."""
        return float(np.mean([np.mean(mine == full) if mine.shape == full.shape else 0.0
                              for mine, full in zip(self.winners, reference.winners)]))


class StepSheet:
    """Gathers the best classes of one output of shape (1, T, C), sample by sample.

    Args:
        output: Which output.
    """

    def __init__(self, output: str) -> None:
        self.output = output
        self._winners: list[Array] = []

    def add(self, sample: LabelledSample, outputs: Mapping[str, Array]) -> None:
        """Take one sample's outputs."""
        self._winners.append(outputs[self.output].argmax(axis=-1))

    def judge(self) -> Steps:
        """Return everything that was added."""
        return Steps(tuple(self._winners))


def sheet_for(outputs: Mapping[str, Array], *, task: Task = Task.CLASSIFY,
              output: str | None = None) -> ScoreSheet | StepSheet | None:
    """Return an empty sheet for the output that tells how well the task is done; None when there is none.

    Scores of shape (1, C) come first; else the first output of shape (1, T, C) is taken step by step.

    Args:
        outputs: Of one sample.
        task: What labels mean.
        output: Name of the scores; found by shape when None.
    """
    if output is not None or scores_of(outputs) is not None:
        return ScoreSheet(task=task, output=output)
    steps = next((name for name, array in outputs.items() if array.dtype.kind == "f" and array.ndim == 3
                  and array.shape[0] == 1 and array.shape[2] > 1), None)
    return None if steps is None else StepSheet(steps)


def loss_of(found: Accuracy | Steps, reference: Accuracy | Steps) -> Loss:
    """Return the loss in top-1 or, of multi-label data, in mAP; in agreement where there are no labels.

    Raises:
        SpecError: Without labels, when both were not made of the same samples.
    """
    if isinstance(found, Steps) or isinstance(reference, Steps):
        assert isinstance(found, Steps)
        assert isinstance(reference, Steps)
        return Loss("agreement", 100 * found.agreement(reference), 100.0)
    for metric, mine, full in (("top-1", found.top1, reference.top1),
                               ("mAP", found.mean_average_precision, reference.mean_average_precision)):
        if mine is not None and full is not None:
            return Loss(metric, 100 * mine, 100 * full)
    return Loss("agreement", 100 * found.agreement(reference), 100.0)


class Judge:
    """Tells the loss of one model after the other on the same data; the reference is run once.

    Args:
        reference: The FP32 model.
        data: Samples with batch dimension 1, read once a model.
        task: What labels mean.
        output: Name of the scores; found by shape when None, see `sheet_for`.
        threads: For ONNX Runtime; its own choice when None.
        progress: Told how many samples are done.

    Attributes:
        samples: How many there are; a budget of less than 100 / samples points allows no other answer on any of them.

    Raises:
        CalibrationError: There is no sample.
        SpecError: The model has no output that can be judged.
    """

    def __init__(self, reference: ModelSource, data: Iterable[LabelledSample], *, task: Task = Task.CLASSIFY,
                 output: str | None = None, threads: int | None = None, progress: Progress = silent) -> None:
        self._data, self._task, self._output, self._threads = data, task, output, threads
        self.samples = 0
        self._reference = self._run(reference, progress)

    def __call__(self, model: ModelSource, progress: Progress = silent) -> Loss:
        """Return the loss of a model that has the inputs and outputs of the reference."""
        return loss_of(self._run(model, progress), self._reference)

    def _run(self, model: ModelSource, progress: Progress) -> Accuracy | Steps:
        session, total = open_model(model, threads=self._threads), total_of(self._data)
        sheet: ScoreSheet | StepSheet | None = None
        for done, sample in enumerate(self._data, start=1):
            outputs = session.run(fed(session, sample.feeds))
            sheet = sheet or sheet_for(outputs, task=self._task, output=self._output)
            if sheet is None:
                shapes = ", ".join(f"{name}{list(array.shape)}" for name, array in outputs.items())
                raise SpecError("The model has no output of shape (1, C) or (1, T, C) whose loss could be told. It "
                                f"returns: {shapes}. Judge it by a function of your own: trtkit.quant.lower_within")
            sheet.add(sample, outputs)
            self.samples = done
            progress("Evaluating", done, total)
        if sheet is None:
            raise CalibrationError("There is no sample to evaluate on. Give a data source that is not empty")
        return sheet.judge()
