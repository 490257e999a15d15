"""trtkit compare: two models and data -> tables of how far one is from the other, and how good both are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from trtkit.cli.console import console, rich_progress
from trtkit.errors import SpecError
from trtkit.preprocess import Preprocess

if TYPE_CHECKING:
    from trtkit.evaluate import Accuracy, Comparison, Difference

__all__ = ["compare"]


def compare(
    reference: Annotated[Path, typer.Argument(help="ONNX file or bundle, usually FP32.")],
    candidate: Annotated[Path, typer.Argument(help="ONNX file or bundle, usually lowered.")],
    data: Annotated[str, typer.Option(help="Folder of images, .npz, .npy, COCO .json, video, or path.py:function.")],
    preprocess: Annotated[str | None, typer.Option(
        "--preprocess", "-p",
        help="How images become inputs: a recipe, TOML or JSON of that alone, or JSON itself. A bundle brings "
             "its own.",
    )] = None,
    layers: Annotated[bool, typer.Option("--layers", help="Compare inner tensors of the same name as well.")] = False,
    limit: Annotated[int | None, typer.Option(help="At most so many samples.")] = None,
    multi_label: Annotated[bool, typer.Option("--multi-label", help="All labels of a sample are present at once: "
                                                                    "F1 and mAP instead of top-1 and top-5.")] = False,
    threshold: Annotated[float, typer.Option(help="From which score on a label counts (multi-label).")] = 0.5,
    threads: Annotated[int | None, typer.Option(help="For ONNX Runtime.")] = None,
    top: Annotated[int, typer.Option(help="How many layers to show, the worst first.")] = 20,
) -> None:
    """Run both models on the data and print how they differ."""
    from trtkit.calib import open_data
    from trtkit.evaluate import Task, open_model
    from trtkit.evaluate import compare as compare_models

    first, second = (open_model(model, threads=threads) for model in (reference, candidate))
    brought = [manifest.preprocess for each in (first, second) if (manifest := getattr(each, "manifest", None))]
    recipe = read_preprocess(preprocess) if preprocess is not None else next(iter(brought), None)
    source = open_data(data, input=first.inputs[0], preprocess=recipe, limit=limit)
    first.close()
    second.close()
    with rich_progress() as progress:
        comparison = compare_models(reference, candidate, source, layers=layers, threshold=threshold, threads=threads,
                                    task=Task.MULTI_LABEL if multi_label else Task.CLASSIFY, progress=progress)
    _show(comparison, reference, candidate, top)


def read_preprocess(text: str) -> Preprocess:
    """Return the preprocessing in a file that Preprocess.load reads, or in JSON itself.

    Raises:
        SpecError: It cannot be read, or holds no usable preprocessing.
    """
    if text.lstrip().startswith("{"):
        try:
            return Preprocess.from_json(json.loads(text))
        except json.JSONDecodeError as err:
            raise SpecError(f"--preprocess is not valid JSON: {err}. Give a recipe, a .json file, or JSON such as "
                            '{"size": [224, 224]}') from err
    return Preprocess.load(Path(text))


def _show(comparison: Comparison, reference: Path, candidate: Path, top: int) -> None:
    console.print(f"{reference.name} ({comparison.backends[0]}) against {candidate.name} ({comparison.backends[1]}), "
                  f"{comparison.samples} samples", markup=False, highlight=False)
    console.print(_differences("Outputs", sorted(comparison.outputs, key=lambda each: each.sqnr_db)))
    if comparison.reference is not None and comparison.candidate is not None and comparison.reference.labelled:
        console.print(_accuracies(comparison.reference, comparison.candidate))
    if comparison.layers:
        worst = comparison.worst_layers()
        shown = f"Layers, the worst {min(top, len(worst))} of {len(worst)}"
        console.print(_differences(shown, worst[:top]))


def _differences(title: str, rows: list[Difference] | tuple[Difference, ...]) -> Table:
    table = Table("tensor", "max abs error", "mean abs error", "cosine", "SQNR dB", "top-1 agreement", title=title,
                  title_justify="left")
    for each in rows:
        table.add_row(each.name, f"{each.max_abs_error:.4g}", f"{each.mean_abs_error:.4g}", f"{each.cosine:.6f}",
                      f"{each.sqnr_db:.1f}", "-" if each.agreement is None else f"{each.agreement:.4f}")
    return table


def _accuracies(reference: Accuracy, candidate: Accuracy) -> Table:
    table = Table("metric", "reference", "candidate", "difference", title=f"{reference.labelled} labelled samples",
                  title_justify="left")
    for name, attribute in (("top-1", "top1"), ("top-5", "top5"), ("F1 micro", "f1_micro"), ("F1 macro", "f1_macro"),
                            ("mAP", "mean_average_precision")):
        a, b = getattr(reference, attribute), getattr(candidate, attribute)
        if a is not None and b is not None:
            table.add_row(name, f"{a:.4f}", f"{b:.4f}", f"{b - a:+.4f}")
    return table
