"""trtkit sensitivity: FP32 ONNX + calibration table + samples -> its layers by the accuracy that each one costs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from trtkit.cli.compare import read_preprocess
from trtkit.cli.console import console, resumable, rich_progress
from trtkit.cli.quantize import read_table, samples_of
from trtkit.errors import SpecError
from trtkit.files import atomic_write, require_folder
from trtkit.precision import Estimator, NodeSelector, Precision, QuantSpec
from trtkit.target import get_target

if TYPE_CHECKING:
    from trtkit.quant.budget.sensitivity import Sensitivity

__all__ = ["sensitivity", "show_layers"]

_PROBES = ("alone", "rest")


def sensitivity(
    model: Annotated[Path, typer.Argument(help="FP32 ONNX model, the one that was calibrated.")],
    target: Annotated[str, typer.Option(help="What it is for, such as jetson-orin-jp6; trtkit doctor lists all.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="What to write: .json, or .csv.")],
    calib: Annotated[Path | None, typer.Option(help="Calibration table; needed for int8, int8+fp16 and fp8.")] = None,
    precision: Annotated[Precision | None, typer.Option(
        help="Number format; int8+fp16 when not given, int8 where the target lacks it.")] = None,
    data: Annotated[str | None, typer.Option(
        help="Samples, best with labels: folder of images, .npz, .npy, COCO .json, video, or path.py:function. Noise "
             "like the calibrated data when not given.")] = None,
    preprocess: Annotated[str | None, typer.Option(
        "--preprocess", "-p", help="How images become inputs: a recipe, TOML or JSON of that alone, or JSON itself.",
    )] = None,
    limit: Annotated[int, typer.Option(min=1, help="Samples a layer, evenly spaced in the data.")] = 16,
    probe: Annotated[str, typer.Option(help="alone: quantize one layer at a time. rest: leave one at a time in "
                                            "float; shows what layers do to one another.")] = "alone",
    multi_label: Annotated[bool, typer.Option("--multi-label", help="Labels of a sample are present at once: "
                                                                    "mAP instead of top-1.")] = False,
    estimator: Annotated[Estimator, typer.Option(help="How ranges are chosen.")] = QuantSpec.estimator,
    keep: Annotated[list[str] | None, typer.Option(help="Node name pattern that stays in float; repeatable.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Picture to draw: .png, .svg or .pdf.")] = None,
    top: Annotated[int, typer.Option(min=1, help="How many layers to print and draw.")] = 20,
    targets: Annotated[Path | None, typer.Option(help="TOML file with targets of your own.")] = None,
) -> None:
    """Rank the weighted layers by the noise that quantizing each one brings into the output."""
    from trtkit.evaluate import Task
    from trtkit.graph import load_model
    from trtkit.quant.budget.plot import plot_sensitivity, require_plot
    from trtkit.quant.budget.sensitivity import Probe, measure_sensitivity

    if probe not in _PROBES:
        raise SpecError(f"--probe is '{probe}'. Choose one of: {', '.join(_PROBES)}")
    if output.suffix.lower() not in (".json", ".csv"):
        raise SpecError(f"'{output}' has the ending '{output.suffix}'. Give a .json or a .csv file")
    chosen = get_target(target, targets)
    require_folder(output)
    if plot is not None:
        require_plot(plot)
    proto = load_model(model)
    table = read_table(calib, proto)
    samples = samples_of(proto, table, data, read_preprocess(preprocess) if preprocess else None, limit)
    part = output.with_name(f"{output.name}.part")
    with rich_progress() as progress, resumable(part):
        found = measure_sensitivity(
            proto, chosen, precision or chosen.usual_precision, samples=samples, table=table, probe=Probe(probe),
            checkpoint=part, spec=QuantSpec(estimator, keep=NodeSelector(tuple(keep or ()))),
            task=Task.MULTI_LABEL if multi_label else Task.CLASSIFY, progress=progress)
    text = found.to_csv() if output.suffix.lower() == ".csv" else json.dumps(found.to_json(), indent=1) + "\n"
    atomic_write(output, text.encode())
    part.unlink(missing_ok=True)
    if plot is not None:
        plot_sensitivity(found, plot, top=max(top, 40))
    show_layers(found, top)
    console.print(f"Wrote {escape(str(output))}{f' and {escape(str(plot))}' if plot else ''}", soft_wrap=True)


def show_layers(found: Sensitivity, top: int) -> None:
    """Print the noisiest layers, and what all of them together lose."""
    total = max(sum(each.macs for each in found.layers), 1)
    shown = found.layers[:top]
    table = Table("layer", "operator", title=f"{found.precision.value} for {found.target}: the noisiest {len(shown)} "
                                             f"of {len(found.layers)} layers, {found.samples} samples",
                  title_justify="left")
    what = "alone" if found.probe.value == "alone" else "left out"
    for heading in ("% of MACs", f"SQNR dB, {what}", "noise, % of output",
                    *([f"points of {found.metric} lost, {what}"] if found.metric else [])):
        table.add_column(heading, justify="right")
    for each in shown:
        table.add_row(escape(each.name), each.op_type, f"{100 * each.macs / total:.1f}", f"{each.sqnr_db:.1f}",
                      f"{100 * each.noise:.3g}", *([] if each.points is None else [f"{each.points:.2f}"]))
    console.print(table)
    lost = "" if found.points is None else f", {found.points:.2f} points of {found.metric} lost"
    console.print(f"All layers quantized: SQNR {found.sqnr_db:.1f} dB{lost}")
