"""`trtkit run`: bundle + pictures -> predictions."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.table import Table
from rich.text import Text

from trtkit.cli.console import console
from trtkit.errors import SpecError

if TYPE_CHECKING:
    from trtkit.runtime import BundleSession, Prediction


def run(
    bundle: Annotated[Path, typer.Argument(help="A .trtkit file, or a bundle's folder.")],
    images: Annotated[list[Path], typer.Argument(help="Pictures.")],
    top: Annotated[int | None, typer.Option(min=1, help="Predictions a picture; else as the bundle says.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    target: Annotated[str | None, typer.Option(help="Only artifacts of this target.")] = None,
    precision: Annotated[str | None, typer.Option(help="Only artifacts of this precision.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="For ONNX Runtime.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Predict what each picture shows; one that cannot be read is named, the others are still predicted."""
    import trtkit

    with trtkit.open(bundle, device=device, target=target, precision=precision, threads=threads) as session:
        found, failed = _predict(session, images, top)
        if as_json:
            rows = [{"image": str(path), "predictions": [asdict(p) for p in predictions]}
                    for path, predictions in found.items()]
            console.print_json(json.dumps({"choice": str(session.choice), "images": rows, "failed": failed}))
        else:
            console.print(_table(found))
            console.print(str(session.choice), markup=False, highlight=False, soft_wrap=True)
    if failed:
        raise SpecError("; ".join(failed))


def _predict(session: BundleSession, images: list[Path], top: int | None
             ) -> tuple[dict[Path, list[Prediction]], list[str]]:
    found: dict[Path, list[Prediction]] = {}
    failed: list[str] = []
    for path in images:
        try:
            found[path] = session(path, top=top)
        except SpecError as err:
            failed.append(str(err))
    return found, failed


def _table(found: dict[Path, list[Prediction]]) -> Table:
    table = Table("picture", "prediction", "score", box=box.SIMPLE, pad_edge=False)
    for path, predictions in found.items():
        for rank, prediction in enumerate(predictions):
            table.add_row(Text(str(path) if rank == 0 else ""), Text(prediction.label), f"{prediction.score:.3f}")
        if not predictions:
            table.add_row(Text(str(path)), "nothing above the threshold", "")
    return table
