"""`trtkit rewrite`: ONNX -> ONNX by named passes, each checked numerically."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from trtkit.cli.console import console, rich_progress
from trtkit.errors import SpecError
from trtkit.files import require_folder
from trtkit.target import get_target

if TYPE_CHECKING:
    import onnx

    from trtkit.graph.rewriting import Rewritten

__all__ = ["rewrite"]

_SHOWN_REFUSALS = 3


def rewrite(
    model: Annotated[Path | None, typer.Argument(help="ONNX model to rewrite.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="ONNX file to write.")] = None,
    passes: Annotated[list[str] | None, typer.Option(
        "--pass", help="Pass to run, as NAME or NAME:ARGUMENT; give it several times.")] = None,
    preset: Annotated[str | None, typer.Option(help="Run the passes for this target first.")] = None,
    targets: Annotated[Path | None, typer.Option(help="TOML file with targets of your own.")] = None,
    verify: Annotated[bool, typer.Option(help="Check each pass in ONNX Runtime on random inputs.")] = True,
    allow_custom: Annotated[bool, typer.Option(help="Let operators outside ONNX through.")] = False,
    list_passes: Annotated[bool, typer.Option("--list", help="Show all passes and stop.")] = False,
) -> None:
    """Rewrite MODEL by passes and write it to OUTPUT."""
    from trtkit._optional import require

    for module in ("onnx", "onnx_graphsurgeon", "onnxruntime"):
        require(module, extra="onnx", feature="trtkit rewrite")
    if list_passes:
        _print_passes()
        return
    if model is None or output is None:
        raise SpecError("rewrite needs a model and an output. "
                        "Run: trtkit rewrite MODEL.onnx -o OUT.onnx --preset TARGET")
    from trtkit import graph

    names = [*(graph.preset(get_target(preset, targets)) if preset else ()), *(passes or ())]
    if not names:
        raise SpecError("rewrite has no pass to run. "
                        "Give --pass NAME or --preset TARGET; trtkit rewrite --list shows them")
    require_folder(output)
    original = graph.load_model(model, allow_custom=allow_custom)
    with rich_progress() as progress:
        done = graph.rewrite(original, names, verify=verify, progress=progress)
    graph.save_model(done.model, output)
    _print_result(original, done, output, verify)


def _print_passes() -> None:
    from trtkit.graph import PASSES

    table = Table("pass", "what it does")
    for entry in PASSES.values():
        table.add_row(entry.spelling.replace("[", "\\["), entry.description)
    console.print(table)


def _print_result(original: onnx.ModelProto, done: Rewritten, output: Path, verified: bool) -> None:
    table = Table("pass", "changes", "left alone, and why")
    for name, result in done.results:
        shown = list(result.refusals[:_SHOWN_REFUSALS])
        if len(result.refusals) > _SHOWN_REFUSALS:
            shown.append(f"and {len(result.refusals) - _SHOWN_REFUSALS} more (-v lists all)")
        table.add_row(name.replace("[", "\\["), str(result.changes), "\n".join(shown).replace("[", "\\["))
    console.print(table)
    checked = "each change checked in ONNX Runtime" if verified else "not checked"
    nodes = f"{len(original.graph.node)} nodes -> {len(done.model.graph.node)}"
    console.print(f"{nodes}, {checked}: {output}", highlight=False)
