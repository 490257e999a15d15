"""A torch module + labelled samples -> its accuracy, computed by torch in batches; what ONNX Runtime would tell."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice

import torch
from torch import nn

from trtkit.evaluate import Accuracy, Task
from trtkit.evaluate.accuracy import LabelledSample, ScoreSheet
from trtkit.export.adapter import evaluating
from trtkit.export.outputs import named_tensors

__all__ = ["module_accuracy"]

_BATCH = 32


def module_accuracy(module: nn.Module, data: Iterable[LabelledSample], *, task: Task = Task.CLASSIFY,
                    output: str | None = None) -> Accuracy:
    """Return what a module scores.

    Args:
        module: Takes one tensor; left in its mode and on its device.
        data: Samples of one input with a batch dimension of 1, all of one shape.
        task: What labels mean.
        output: Name of the output to judge; the first one of shape (1, C) when None.

    Raises:
        CalibrationError: There is no sample.
        SpecError: No output can be judged, or a label is no class of the model.
    """
    weight = next(module.parameters(), None)
    device = torch.device("cpu") if weight is None else weight.device
    sheet = ScoreSheet(task=task, output=output)
    with evaluating(module):
        for samples in _chunks(data):
            inputs = torch.cat([torch.from_numpy(next(iter(sample.feeds.values()))) for sample in samples])
            outputs = {name: tensor.float().cpu().numpy() for name, tensor in named_tensors(module(inputs.to(device)))}
            for row, sample in enumerate(samples):
                sheet.add(sample, {name: values[row:row + 1] for name, values in outputs.items() if values.ndim})
    return sheet.judge()


def _chunks(data: Iterable[LabelledSample]) -> Iterator[list[LabelledSample]]:
    samples = iter(data)
    while chunk := list(islice(samples, _BATCH)):
        yield chunk
