"""trtkit calibrate: ONNX + data -> calibration table."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from trtkit.cli.console import console, resumable, rich_progress
from trtkit.files import require_folder
from trtkit.preprocess import Preprocess

__all__ = ["calibrate"]


def calibrate(
    model: Annotated[Path, typer.Argument(help="FP32 ONNX model.")],
    data: Annotated[str, typer.Option(help="Image folder, .npz, .npy, COCO .json, video, or path.py:function.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Calibration table to write.")],
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

    require_folder(output)
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
        what = f"{finding.tensor}: {finding.message}" if finding.tensor else finding.message
        console.print(f"[{colour}]{finding.severity.value}[/] {escape(what)}. {escape(finding.fix)}.")
