"""trtkit deploy: recipe.toml -> bundle, with one table of what was made."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from trtkit.cli.compression_table import compression_table
from trtkit.cli.console import console, resumable, rich_progress

if TYPE_CHECKING:
    from trtkit.pipeline import Candidate, Deployed

__all__ = ["deploy", "show"]


def deploy(
    recipe: Annotated[Path, typer.Argument(help="Recipe, a TOML file.")],
) -> None:
    """Run every step of the recipe, print what each target gets, and write the bundle."""
    from trtkit.pipeline import deploy as run
    from trtkit.recipe import Recipe

    wanted = Recipe.load(recipe)
    with (rich_progress() as progress, resumable(wanted.work / "compress"),
          resumable(wanted.work / "calibration.table.part")):
        deployed = run(wanted, progress)
    show(deployed)


def show(deployed: Deployed) -> None:
    """Print the notes of a deployment, then one row a target and precision."""
    for note in deployed.notes:
        console.print(f"- {escape(note)}", soft_wrap=True, highlight=False)
    if deployed.manifest.compression:
        console.print(compression_table(deployed.manifest.compression))
    table = Table(title=Text(deployed.recipe.name))
    for heading, justify in (("target", "left"), ("precision", "left"), ("artifact", "left"), ("MB", "right"),
                             ("p50 / p99 ms", "right"), ("over FP32", "right"), ("top-1 / top-5", "right"),
                             ("agreement", "right"), ("in bundle", "left")):
        table.add_column(heading, justify="right" if justify == "right" else "left")
    if deployed.reference_top1 is not None:
        table.add_row("(source)", "fp32", "onnx", "", "", "",
                      f"{deployed.reference_top1:.3f} / {deployed.reference_top5:.3f}", "", "")
    for each in deployed.candidates:
        table.add_row(each.target.name, each.precision.value, _artifact(each), f"{each.size_bytes / 1e6:.2f}",
                      _latency(each), f"{each.speedup.ratio:.2f}x" if each.speedup else "", _accuracy(each),
                      "" if each.agreement is None else f"{each.agreement:.3f}", escape(each.dropped) or "yes")
    console.print(table)
    if any(each.target.is_tensorrt and each.accuracy for each in deployed.candidates):
        console.print("Accuracy of TensorRT targets is of the same graph in ONNX Runtime; it was not run on a GPU.")
    size = sum(artifact.size_bytes for artifact in deployed.manifest.files.values())
    console.print(f"Wrote {escape(str(deployed.recipe.output))} ({size / 1e6:.2f} MB). Next: trtkit run "
                  f"{escape(str(deployed.recipe.output))} PICTURE", soft_wrap=True)


def _artifact(each: Candidate) -> str:
    parts = ["onnx"] + ["cache"] * (each.cache is not None) + ["engine"] * (each.plan is not None)
    return " + ".join(parts)


def _latency(each: Candidate) -> str:
    if each.latency is None:
        return "not measurable here"
    return f"{each.latency.p50_ms:.2f} / {each.latency.p99_ms:.2f}"


def _accuracy(each: Candidate) -> str:
    if each.accuracy is None:
        return ""
    if each.accuracy.mean_average_precision is not None:
        return f"mAP {each.accuracy.mean_average_precision:.3f}"
    if each.accuracy.top1 is None or each.accuracy.top5 is None:
        return ""
    return f"{each.accuracy.top1:.3f} / {each.accuracy.top5:.3f}"
