"""nn.Module -> ONNX: one exporter after the other until a model computes what torch computes, at every batch size."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import torch

from trtkit.errors import ExportError, SpecError
from trtkit.export.adapter import Adapter, evaluating
from trtkit.export.capture import captured
from trtkit.export.exporters import ExporterFailed, OutputAxes, export_by_dynamo, export_by_torchscript
from trtkit.export.finishing import finish
from trtkit.export.inputs import Example, Inputs, named_inputs
from trtkit.export.opset import opset_of, size_bytes
from trtkit.export.options import Exporter, ExportOptions
from trtkit.export.parity import verify
from trtkit.export.quantized import refuse_quantized
from trtkit.export.reference import Reference, take_reference
from trtkit.export.report import Attempt, Exported, ParityReport
from trtkit.export.writing import write_model
from trtkit.progress import Progress, silent
from trtkit.tensors import TensorSpec

__all__ = ["export_onnx"]

logger = logging.getLogger(__name__)

_Export = Callable[[Adapter, Inputs, OutputAxes, int], onnx.ModelProto]


def export_onnx(module: torch.nn.Module, example: Example, options: ExportOptions | None = None, *,
                path: Path | None = None, progress: Progress = silent) -> Exported:
    """Return `module` as an ONNX model that was checked against it.

    Each exporter of `options.exporters` gets its turn. A model counts only when it reaches the opset, passes
    onnx.checker, and gives torch's numbers in ONNX Runtime at every batch size; else the next exporter follows.

    Args:
        module: In any mode, on any device; it is put into evaluation mode for the while and left as it was.
        example: One tensor (the input is then called "input"), a sequence in forward's order, or tensors by name.
        options: Opset, dynamic dimensions, tolerances; the defaults when None.
        path: Write the model here, whole or not at all; weights of a model above `options.external_data_bytes` go to
            a file beside it, PATH.data. The model is returned as bytes when None.
        progress: Told which exporter is at work.

    Raises:
        ExportError: No exporter succeeded (each one's reason is told, with the first diverging output and its
            values), the module fails or is random in torch, or it is quantized already.
        SpecError: The example or the options do not fit the module.
    """
    options = options or ExportOptions()
    refuse_quantized(module)
    inputs = named_inputs(module, example, options)
    adapter = Adapter(module, inputs.names if inputs.by_keyword else None)
    attempts: list[Attempt] = []
    with evaluating(adapter):
        progress("Running torch", 0, 1)
        reference = take_reference(adapter, inputs, options)
        progress("Running torch", 1, 1)
        for exporter in _plan(options, inputs):
            progress(f"Exporting ({exporter.value})", 0, 1)
            with captured() as notes:
                won, error = _attempt(exporter, adapter, inputs, reference, options)
            attempts.append(Attempt(exporter, error, tuple(notes)))
            logger.info("Exporter %s: %s", exporter.value, error or "succeeded")
            progress(f"Exporting ({exporter.value})", 1, 1)
            if won is not None:
                break
        else:
            raise ExportError(_all_failed(module, attempts))
    model, report = won
    written = write_model(model, path, options.external_data_bytes) if path else _serialized(model)
    return Exported(written, attempts[-1].exporter, opset_of(model), _specs(model.graph.input),
                    _specs(model.graph.output), tuple(attempts), report)


def _plan(options: ExportOptions, inputs: Inputs) -> tuple[Exporter, ...]:
    """Return what to try; a static fallback adds nothing when nothing is dynamic."""
    if inputs.sizes or options.exporters == (Exporter.STATIC,):
        return options.exporters
    return tuple(exporter for exporter in options.exporters if exporter is not Exporter.STATIC)


def _attempt(exporter: Exporter, adapter: Adapter, inputs: Inputs, reference: Reference, options: ExportOptions,
             ) -> tuple[tuple[onnx.ModelProto, ParityReport] | None, str | None]:
    """Return the model and its report, or None and why not."""
    if exporter is Exporter.STATIC:
        inputs, reference = inputs.static(options.batch), reference.static()
    elif reference.refusals:
        return None, "; ".join(reference.refusals.values())
    faults = []
    for name, export in _WAYS[exporter]:
        try:
            return _exported(export, adapter, inputs, reference, options), None
        except ExporterFailed as err:
            faults.append(f"{name}: {err}" if exporter is Exporter.STATIC else str(err))
    return None, "; ".join(faults)


_WAYS = {
    Exporter.DYNAMO: (("dynamo", export_by_dynamo),),
    Exporter.TORCHSCRIPT: (("torchscript", export_by_torchscript),),
    Exporter.STATIC: (("dynamo", export_by_dynamo), ("torchscript", export_by_torchscript)),
}


def _exported(export: _Export, adapter: Adapter, inputs: Inputs, reference: Reference,
              options: ExportOptions) -> tuple[onnx.ModelProto, ParityReport]:
    shapes = reference.shapes()
    dynamic = {name: {axis: size for axis, size in enumerate(shape) if isinstance(size, str)}
               for name, shape in shapes.items()}
    declared: dict[str, Sequence[int | str]] = dict(shapes)
    for name, tensor, axes in zip(inputs.names, inputs.tensors, inputs.axes):
        declared[name] = [axes.get(axis, int(size)) for axis, size in enumerate(tensor.shape)]
    model = finish(export(adapter, inputs, dynamic, options.opset), options.opset, declared)
    report = _verified(model, reference, options)
    if report.divergence:
        raise ExporterFailed(report.divergence)
    return model, report


def _verified(model: onnx.ModelProto, reference: Reference, options: ExportOptions) -> ParityReport:
    if size_bytes(model) <= options.external_data_bytes:
        return verify(model.SerializeToString(), reference, options)
    with tempfile.TemporaryDirectory(prefix="trtkit-export-") as folder:
        return verify(write_model(model, Path(folder) / "model.onnx", options.external_data_bytes), reference, options)


def _serialized(model: onnx.ModelProto) -> bytes:
    try:
        data: bytes = model.SerializeToString()
    except ValueError as err:
        raise SpecError(f"The model has {size_bytes(model)} bytes of weights, more than the 2 GB that one protobuf "
                        "holds. Give a path, so that they go to a file beside it") from err
    return data


def _specs(values: Sequence[onnx.ValueInfoProto]) -> tuple[TensorSpec, ...]:
    return tuple(_spec(value.name, value.type.tensor_type) for value in values)


def _spec(name: str, tensor: onnx.TypeProto.Tensor) -> TensorSpec:
    dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)).name
    return TensorSpec(name, dtype, tuple(dim.dim_param or int(dim.dim_value) for dim in tensor.shape.dim))


def _all_failed(module: torch.nn.Module, attempts: Sequence[Attempt]) -> str:
    reasons = "\n".join(f"  {attempt.exporter.value}: {attempt.error}" for attempt in attempts)
    return (f"No exporter made an ONNX model of {type(module).__name__} that computes what torch computes:\n{reasons}\n"
            "Replace what the last line names; write branches on data with torch.where, and loops over data as "
            "tensor operations")
