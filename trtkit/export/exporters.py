"""The ways from torch to ONNX: each takes an adapter, its inputs and output names, and returns a ModelProto."""

from __future__ import annotations

import inspect
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx
import torch

from trtkit.export.adapter import Adapter
from trtkit.export.inputs import Inputs

__all__ = ["DYNAMO_FLOOR", "ExporterFailed", "OutputAxes", "export_by_dynamo", "export_by_torchscript", "reason"]

DYNAMO_FLOOR = 18
"""Lowest opset that the dynamo exporter writes by itself; lower ones are converted afterwards."""

OutputAxes = Mapping[str, Mapping[int, str]]


class ExporterFailed(Exception):
    """An exporter, or something that its model must pass, failed; the text is one line."""


def export_by_dynamo(adapter: Adapter, inputs: Inputs, outputs: OutputAxes, opset: int) -> onnx.ModelProto:
    """Return the model that torch.export and onnxscript make, at `opset` or DYNAMO_FLOOR, whichever is higher.

    Raises:
        ExporterFailed: In the words of the innermost cause.
    """
    inputs = _showing_sizes(inputs)
    dimensions = {name: torch.export.Dim(name) for name in inputs.sizes}
    shapes = tuple({axis: dimensions[name] for axis, name in axes.items()} for axes in inputs.axes)
    try:
        program = torch.onnx.export(adapter, _on_device(adapter, inputs), dynamo=True, input_names=list(inputs.names),
                                    output_names=list(outputs), opset_version=max(opset, DYNAMO_FLOOR),
                                    dynamic_shapes=(shapes,) if inputs.sizes else None, verbose=False)
        return program.model_proto
    except Exception as err:
        raise ExporterFailed(reason(err)) from err


def export_by_torchscript(adapter: Adapter, inputs: Inputs, outputs: OutputAxes, opset: int) -> onnx.ModelProto:
    """Return the model that the TorchScript tracer makes.

    Raises:
        ExporterFailed: In the words of the innermost cause.
    """
    inputs = _showing_sizes(inputs)
    axes: dict[str, Mapping[int, str]] = {**dict(zip(inputs.names, inputs.axes)), **outputs} if inputs.sizes else {}
    extra: dict[str, Any] = {"dynamo": False} if "dynamo" in inspect.signature(torch.onnx.export).parameters else {}
    try:
        with tempfile.TemporaryDirectory(prefix="trtkit-export-") as folder:
            path = Path(folder) / "model.onnx"
            torch.onnx.export(adapter, _on_device(adapter, inputs), str(path), input_names=list(inputs.names),
                              output_names=list(outputs), opset_version=opset, dynamic_axes=axes, **extra)
            return onnx.load(path)
    except Exception as err:
        raise ExporterFailed(reason(err)) from err


def reason(err: BaseException) -> str:
    """Return the innermost cause of an error as one line of at most 240 characters."""
    while err.__cause__ is not None:
        err = err.__cause__
    line = next((line.strip() for line in str(err).splitlines() if line.strip()), "no message")
    line = line if len(line) <= 200 else line[:199] + "…"
    return f"{type(err).__name__}: {line}"


def _showing_sizes(inputs: Inputs) -> Inputs:
    """Return inputs whose dynamic sizes are at least 2: torch.export takes a size of 1 for a constant."""
    return inputs.resized({name: max(2, size) for name, size in inputs.sizes.items()})


def _on_device(adapter: Adapter, inputs: Inputs) -> tuple[torch.Tensor, ...]:
    return tuple(tensor.to(adapter.device) for tensor in inputs.tensors)
