"""trtkit calibrate: ONNX + data -> calibration table."""

from __future__ import annotations

from pathlib import Path

import typer
from rich.markup import escape

from trtkit.cli.console import console, rich_progress
from trtkit.errors import SpecError
from trtkit.preprocess import Preprocess

__all__ = ["calibrate"]


def calibrate(
    model: Path = typer.Argument(..., help="FP32 ONNX model."),
    data: str = typer.Option(..., "--data", help="Folder of images, .npz, .npy, COCO .json, video, path.py:function."),
    output: Path = typer.Option(..., "--output", "-o", help="Calibration table to write."),
    preprocess: Path | None = typer.Option(None, "--preprocess", "-p", help="TOML with the preprocessing."),
    limit: int | None = typer.Option(None, "--limit", min=1, help="At most so many samples, evenly spaced."),
    batch: int = typer.Option(1, "--batch", min=1, help="Samples a run; the result does not depend on it."),
    resume: bool = typer.Option(True, help="Go on from OUTPUT.part when it exists, or start anew."),
) -> None:
    """Write the calibration table and print what looks wrong."""
    from trtkit.calib import audit, open_data
    from trtkit.calib import calibrate as sweep
    from trtkit.graph import load_model, model_inputs

    proto = load_model(model)
    inputs = model_inputs(proto)
    image = max(inputs, key=lambda spec: len(spec.shape))
    source = open_data(data, input=image, preprocess=_read(preprocess), limit=limit)
    part = output.with_name(f"{output.name}.part")
    if not resume:
        part.unlink(missing_ok=True)
    with rich_progress() as progress:
        table = sweep(proto, source, batch=batch, checkpoint=part, progress=progress)
    table.save(output)
    values = sum(histogram.total for histogram in table.tensors.values())
    console.print(f"{escape(str(output))}: {table.samples} samples, {len(table.tensors)} tensors, {values:,} values")
    if source.unreadable:
        console.print(f"[yellow]{len(source.unreadable)} unreadable, left out:[/] "
                      f"{escape(', '.join(source.unreadable))}")
    for finding in audit(table, inputs=inputs, data=source):
        colour = "red" if finding.severity.value == "error" else "yellow"
        where = f"{finding.tensor}: " if finding.tensor else ""
        console.print(f"[{colour}]{finding.severity.value}[/] {escape(where + finding.message)}. {escape(finding.fix)}.")


def _read(path: Path | None) -> Preprocess | None:
    """Return the preprocessing in a TOML file: at the top level, or under [preprocess] as a recipe has it."""
    if path is None:
        return None
    import sys

    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as err:
        raise SpecError(f"Preprocessing '{path}' cannot be read: {err}. Write TOML such as: size = [224, 224]") from err
    return Preprocess.from_json(content.get("preprocess", content))
