"""trtkit export: a factory of a torch module, its weights and input shapes -> an ONNX model that was checked."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from trtkit.cli.console import console, rich_progress
from trtkit.cli.examples import example_arrays
from trtkit.errors import SpecError
from trtkit.files import require_folder
from trtkit.target import get_target

if TYPE_CHECKING:
    from trtkit.export import Exported

__all__ = ["export"]

DEFAULT_OPSET = 17


def export(
    factory: Annotated[str, typer.Argument(help="pkg.module:factory or path/to/file.py:factory; called without "
                                                "arguments, it returns the module.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="ONNX file to write.")],
    inputs: Annotated[list[str], typer.Option("--input", help="Shape of an input, such as 1x3x224x224 or "
                                                              "name=1x3x224x224:float32. Repeat for each input.")],
    weights: Annotated[Path | None, typer.Option(help="safetensors file, or a state_dict of torch.save.")] = None,
    dynamic: Annotated[list[str] | None, typer.Option(
        help="'batch', or input:axis=name such as input:2=height; repeat for more. Every size is fixed without it.",
    )] = None,
    target: Annotated[str | None, typer.Option(help="Choose the opset for this target.")] = None,
    targets: Annotated[Path | None, typer.Option(help="TOML file with targets of your own.")] = None,
    opset: Annotated[int | None, typer.Option(help="ONNX opset; 17 without a target.")] = None,
    output_name: Annotated[list[str] | None, typer.Option(help="Name of an output, in order; repeat for each.")] = None,
    rtol: Annotated[float | None, typer.Option(help="Error accepted, as a share of an output's peak.")] = None,
) -> None:
    """Export, verify against torch and write."""
    from trtkit.export import ExportOptions, export_onnx, load_module

    if target is not None and opset is not None:
        raise SpecError(f"--target {target} and --opset {opset} both name an opset. Give one of them")
    batch, axes = _dynamic(dynamic or [])
    wanted = get_target(target, targets).opset if target is not None else opset or DEFAULT_OPSET
    options = ExportOptions(opset=wanted, batch=batch, dynamic_axes=axes, rtol=rtol,
                            output_names=tuple(output_name) if output_name else None)
    example = example_arrays(inputs)
    require_folder(output)
    with rich_progress() as progress:
        exported = export_onnx(load_module(factory, weights), example, options, path=output, progress=progress)
    _show(exported, output)


def _dynamic(texts: list[str]) -> tuple[str | None, dict[str, dict[int, str]]]:
    """Return the name of the batch dimension, and the further dynamic axes by input."""
    axes: dict[str, dict[int, str]] = {}
    for text in texts:
        place, equals, name = text.partition("=")
        tensor, _, axis = place.rpartition(":")
        if equals and tensor and axis.isdigit():
            axes.setdefault(tensor, {})[int(axis)] = name
        elif text != "batch":
            raise SpecError(f"--dynamic '{text}' is not understood. Write batch, or input:axis=name such as "
                            "input:2=height")
    return ("batch" if "batch" in texts else None), axes


def _show(exported: Exported, output: Path) -> None:
    exporters = Table("exporter", "result", title=f"{output}, opset {exported.opset}", title_justify="left")
    for attempt in exported.attempts:
        exporters.add_row(attempt.exporter.value, attempt.error or "used")
    parity = Table("compared at", "output", "max abs error", "tolerance", "cosine", "top-1 agreement",
                   title="ONNX Runtime against torch", title_justify="left")
    for case in exported.parity.cases:
        for each in case.outputs:
            agreement = "-" if each.agreement is None else f"{each.agreement:.3f}"
            parity.add_row(case.label, each.name, f"{each.max_abs_error:.3g}", f"{each.tolerance:.3g}",
                           f"{each.cosine:.7f}", agreement)
    console.print(exporters)
    console.print(parity)
    for spec in exported.inputs:
        console.print(f"input  {spec}", markup=False, highlight=False)
    for spec in exported.outputs:
        console.print(f"output {spec}", markup=False, highlight=False)
    for warning in exported.parity.warnings:
        console.print(f"Warning: {warning}", markup=False, style="yellow")
    if not exported.parity.matches:
        console.print("Nothing could be compared: the model may or may not be right.", style="yellow")
