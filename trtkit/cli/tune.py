"""`trtkit tune`: measure everything of a bundle that fits this machine, and let the fastest be run from now on."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.table import Table

from trtkit.cli.console import console, rich_progress

if TYPE_CHECKING:
    from trtkit.runtime.tuning import Measurement

__all__ = ["tune"]

_BUSY = 0.5


def tune(
    bundle: Annotated[Path, typer.Argument(help="A .trtkit file, or a bundle's folder.")],
    seconds: Annotated[float, typer.Option(min=0.01, help="How long to compare the best ones in turns.")] = 10.0,
    batch: Annotated[int, typer.Option(min=1, help="Size of dynamic dimensions.")] = 1,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Measure each artifact with several numbers of threads, each in a process of its own; remember the winner.

    On a GPU board, plans that are missing are built first, which can take minutes each.
    """
    from trtkit.opening import build_here
    from trtkit.runtime.select import tune as tune_bundle

    busy = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    with rich_progress() as progress:
        tuned = tune_bundle(bundle, device=device, seconds=seconds, batch=batch, builder=build_here, progress=progress)
    if as_json:
        console.print_json(json.dumps([_row(each) for each in tuned.measurements]))
        return
    table = Table("target", "precision", "device", "threads", "spinning", "p50 ms", "times the best", box=box.SIMPLE,
                  pad_edge=False)
    for each in tuned.measurements:
        if not each.error:
            row = _row(each)
            table.add_row(row["target"], row["precision"], row["device"], str(row["threads"] or ""),
                          {True: "", False: "off"}[each.setting.spinning], f"{each.p50_ms:.2f}",
                          f"{each.p50_ms / tuned.best.p50_ms:.2f}{'' if each.in_turns else ' (not in turns)'}")
    console.print(table)
    for line in dict.fromkeys(f"{each.candidate.artifact}: {each.error}" for each in tuned.measurements if each.error):
        console.print(f"Not measurable here: {line}", markup=False, highlight=False, soft_wrap=True)
    if busy > _BUSY:
        console.print(f"[yellow]Other work kept this machine busy (load {busy:.1f}); measure again when it is idle.[/]")
    how = ", ".join(filter(None, (f"{tuned.best.p50_ms:.2f} ms", str(tuned.best.setting))))
    console.print(f"From now on this machine runs {tuned.best.candidate.artifact} ({how})", markup=False,
                  highlight=False, soft_wrap=True)


def _row(each: Measurement) -> dict[str, Any]:
    artifact = each.candidate.artifact
    return {"file": artifact.file, "target": artifact.target, "precision": artifact.precision.value,
            "device": "cpu" if each.candidate.action == "cpu" else "cuda", "threads": each.setting.threads,
            "spinning": each.setting.spinning, "p50_ms": each.setting.p50_ms, "in_turns": each.in_turns,
            "error": each.error}
