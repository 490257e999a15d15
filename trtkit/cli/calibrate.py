"""trtkit calibrate: ONNX + data, or a TensorRT calibration cache -> calibration table."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from trtkit.cli.console import console, resumable, rich_progress
from trtkit.errors import CalibrationError, SpecError
from trtkit.files import require_folder
from trtkit.preprocess import Preprocess

__all__ = ["calibrate"]


def calibrate(
    model: Annotated[Path, typer.Argument(help="FP32 ONNX model.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Calibration table to write.")],
    data: Annotated[str, typer.Option(help="Image folder, .npz, .npy, COCO .json, video, or path.py:function.")] = "",
    from_cache: Annotated[Path | None, typer.Option(
        help="Instead of data: TensorRT calibration cache of this model, such as trtexec wrote; its ranges are taken "
             "as they are.")] = None,
    preprocess: Annotated[Path | None, typer.Option(
        "--preprocess", "-p", help="How images become inputs: a recipe, or TOML or JSON of that alone.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many samples, evenly spaced.")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Samples a run.")] = 1,
    resume: Annotated[bool, typer.Option(help="Go on from OUTPUT.part when it exists, or start anew.")] = True,
) -> None:
    """Write the calibration table and print what looks wrong."""
    from trtkit.calib import audit, open_data
    from trtkit.calib import calibrate as sweep
    from trtkit.graph import load_model, model_inputs

    if bool(data) == (from_cache is not None):
        raise SpecError("Calibrating needs either --data or --from-cache, and not both")
    require_folder(output)
    if from_cache is not None:
        _convert(model, from_cache, output)
        return
    proto = load_model(model)
    inputs = model_inputs(proto)
    image = max(inputs, key=lambda spec: len(spec.shape))
    source = open_data(data, input=image, preprocess=Preprocess.load(preprocess) if preprocess else None, limit=limit)
    part = output.with_name(f"{output.name}.part")
    if not resume:
        part.unlink(missing_ok=True)
    with rich_progress() as progress, resumable(part):
        table = sweep(proto, source, batch=batch, checkpoint=part, progress=progress)
    table.save(output)
    part.unlink(missing_ok=True)
    values = sum(histogram.total for histogram in table.tensors.values())
    console.print(f"{escape(str(output))}: {table.samples} samples, {len(table.tensors)} tensors, {values:,} values")
    if source.unreadable:
        console.print(f"[yellow]{len(source.unreadable)} unreadable, left out:[/] "
                      f"{escape(', '.join(source.unreadable))}")
    for finding in audit(table, inputs=inputs, data=source):
        colour = "red" if finding.severity.value == "error" else "yellow"
        what = f"{finding.where}: {finding.message}" if finding.where else finding.message
        console.print(f"[{colour}]{finding.severity.value}[/] {escape(what)}. {escape(finding.fix)}.")


def _convert(model: Path, cache: Path, output: Path) -> None:
    from trtkit.graph import load_model
    from trtkit.quant.weak.cache import table_from_cache

    try:
        table, missing = table_from_cache(load_model(model), cache.read_bytes())
    except OSError as err:
        raise SpecError(f"Calibration cache '{cache}' cannot be read: {err.strerror}. "
                        "Give the file that TensorRT or trtexec wrote") from err
    except CalibrationError as err:
        raise CalibrationError(f"'{cache}': {err}") from err
    table.save(output)
    console.print(f"{escape(str(output))}: ranges of {len(table.tensors)} tensors, no counts: every --estimator takes "
                  "them as they are", soft_wrap=True)
    if missing:
        console.print(f"[yellow]{len(missing)} tensors are not in the cache:[/] {escape(', '.join(missing[:8]))}",
                      soft_wrap=True)
