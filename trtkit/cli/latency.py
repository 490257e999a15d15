"""trtkit latency: a module -> a kit of its layers; on the board the kit -> a table that predicts how fast it is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.markup import escape
from rich.table import Table

from trtkit.cli.console import console, resumable, rich_progress
from trtkit.cli.examples import example_arrays
from trtkit.files import require_folder
from trtkit.precision import Precision
from trtkit.target import get_target

if TYPE_CHECKING:
    from trtkit.runtime.latency_table import LatencyTable

__all__ = ["latency"]

latency = typer.Typer(no_args_is_help=True)


@latency.command(help="Where the model is: a module's layers at several widths, lowered for a target, in one file.")
def kit(
    factory: Annotated[str, typer.Argument(help="pkg.module:factory or path/to/file.py:factory; called without "
                                                "arguments, it returns the module.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Kit to write.")],
    inputs: Annotated[list[str], typer.Option("--input", help="Shape of an input, such as 1x3x224x224 or "
                                                              "name=1x3x224x224:float32. Repeat for each input.")],
    target: Annotated[str, typer.Option(help="Board or CPU family that will record it.")],
    precision: Annotated[str, typer.Option(help="What the layers will run in, such as fp32, int8 or int8+fp16.")
                         ] = "fp32",
    targets: Annotated[Path | None, typer.Option(help="TOML file with targets of your own.")] = None,
    widths: Annotated[int, typer.Option(min=2, help="Widths at which each kind of layer is measured.")] = 4,
) -> None:
    """Write the kit and tell how to record it."""
    from trtkit.compress.pruning.latency_kit import make_kit
    from trtkit.export import load_module

    wanted, chosen = get_target(target, targets), Precision.parse(precision)
    wanted.check(chosen)
    require_folder(output)
    module = load_module(factory)
    with rich_progress() as progress:
        made = make_kit(module, example_arrays(inputs), wanted, chosen, output, widths=widths, progress=progress)
    kinds = len({layer.point.kind for layer in made.layers})
    console.print(f"{escape(str(output))}: {len(made.layers)} layers of {kinds} kinds, "
                  f"{output.stat().st_size / 1e6:.1f} MB", soft_wrap=True)
    console.print(f"Copy it to the board and run there: trtkit latency record {escape(output.name)} -o table.json",
                  soft_wrap=True)


@latency.command(help="On the board: a kit -> a table of what each layer costs there. Needs neither torch nor onnx.")
def record(
    kit: Annotated[Path, typer.Argument(help="Kit that was made for this machine.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Table to write.")],
    threads: Annotated[int | None, typer.Option(min=1, help="For ONNX Runtime.")] = None,
    seconds: Annotated[float, typer.Option(min=0.001, help="How long to measure each layer.")] = 0.2,
    resume: Annotated[bool, typer.Option(help="Go on from OUTPUT.part when it exists, or start anew.")] = True,
) -> None:
    """Measure every layer and write the table."""
    from trtkit.opening import build_here
    from trtkit.runtime.latency_kit import LatencyKit
    from trtkit.runtime.recording import record_latencies

    require_folder(output)
    opened = LatencyKit.load(kit)
    part = output.with_name(f"{output.name}.part")
    if not resume:
        part.unlink(missing_ok=True)
    with rich_progress() as progress, resumable(part):
        table = record_latencies(opened, builder=build_here, threads=threads, seconds=seconds, checkpoint=part,
                                 progress=progress)
    table.save(output)
    part.unlink(missing_ok=True)
    _show(table, output)


def _show(table: LatencyTable, output: Path) -> None:
    """Print each kind of layer with its narrowest and widest form."""
    kinds = Table("layer", "channels", "ms", "channels ", "ms ", box=box.SIMPLE, pad_edge=False)
    rows: dict[str, list[tuple[int, int, float]]] = {}
    for point, seconds in table.seconds.items():
        rows.setdefault(point.kind, []).append((point.inputs, point.outputs, seconds))
    for kind, cells in rows.items():
        ends = [f"{i} -> {o}|{1e3 * s:.4f}".split("|") for i, o, s in (min(cells), max(cells))]
        kinds.add_row(escape(kind), *ends[0], *ends[1])
    console.print(kinds)
    for key in ("backend", "cpu", "threads", "governor", "power_mode", "load"):
        if key in table.conditions:
            console.print(f"{key}: {table.conditions[key]}", markup=False, highlight=False, soft_wrap=True)
    console.print(f"{escape(str(output))}: the whole model takes {1e3 * table.conditions['model_seconds']:.3f} ms, "
                  f"{table.factor:.2f} times the sum of its layers", soft_wrap=True)
