"""trtkit compress: the [[compress]] steps of a recipe -> a smaller module and ONNX model, and their trade-off."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from trtkit.cli.compression_table import compression_table
from trtkit.cli.console import console, resumable, rich_progress

__all__ = ["compress"]


def compress(
    recipe: Annotated[Path, typer.Argument(help="Recipe, a TOML file with [[compress]] sections.")],
) -> None:
    """Run the compress steps alone, print what each one changed, and keep the result in the recipe's work folder."""
    from trtkit.pipeline import compress as run
    from trtkit.pipeline.compressing import steps_folder
    from trtkit.recipe import Recipe

    wanted = Recipe.load(recipe)
    with rich_progress() as progress, resumable(steps_folder(wanted)):
        compressed = run(wanted, progress)
    for note in compressed.notes:
        console.print(f"- {escape(note)}", soft_wrap=True, highlight=False)
    console.print(compression_table(compressed.rows))
    for what, path in (("module", compressed.weights), ("ONNX model", compressed.onnx),
                       ("calibration", compressed.table), ("plot", compressed.plot)):
        if path is not None:
            console.print(f"Wrote the {what} {escape(str(path))}", soft_wrap=True, highlight=False)
    if compressed.plot is None:
        console.print("There is no plot: it needs [evaluate], and pip install 'trtkit[plot]'.", markup=False)
    console.print(f"Next: trtkit deploy {escape(str(recipe))}", soft_wrap=True)
