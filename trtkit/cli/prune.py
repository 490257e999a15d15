"""trtkit prune: a factory of a torch module and an amount -> weights of a smaller module, which export reads."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.markup import escape
from rich.table import Table

from trtkit.cli.console import console, rich_progress
from trtkit.cli.examples import example_arrays
from trtkit.errors import SpecError
from trtkit.files import require_folder
from trtkit.precision import NodeSelector, Precision
from trtkit.target import Target, get_target

if TYPE_CHECKING:
    from trtkit.compress.pruning.report import PruneReport
    from trtkit.compress.pruning.spec import Goal, Latency, Method

__all__ = ["prune"]


def prune(
    factory: Annotated[str, typer.Argument(help="pkg.module:factory or path/to/file.py:factory; called without "
                                                "arguments, it returns the module.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="safetensors file to write; give it to trtkit export "
                                                                "as --weights.")],
    inputs: Annotated[list[str], typer.Option("--input", help="Shape of an input, such as 1x3x224x224 or "
                                                              "name=1x3x224x224:float32. Repeat for each input.")],
    amount: Annotated[float, typer.Option(help="Share to take away, such as 0.5.")] = 0.5,
    goal: Annotated[str, typer.Option(help="What the amount is a share of: macs, params or latency.")] = "macs",
    method: Annotated[str, typer.Option(help="channels, unstructured or two-four.")] = "channels",
    weights: Annotated[Path | None, typer.Option(help="safetensors file, or a state_dict of torch.save.")] = None,
    importance: Annotated[str, typer.Option(help="Of channels: l1, l2, taylor or batchnorm.")] = "l2",
    scope: Annotated[str, typer.Option(help="global: layers compete; local: each gives the same share.")] = "global",
    target: Annotated[str | None, typer.Option(help="Align channels for this target, and measure latency on it.")
                      ] = None,
    targets: Annotated[Path | None, typer.Option(help="TOML file with targets of your own.")] = None,
    precision: Annotated[str, typer.Option(help="What the module will run in on the target.")] = "fp32",
    table: Annotated[Path | None, typer.Option(help="Latencies recorded on a board: trtkit latency record.")] = None,
    round_to: Annotated[int | None, typer.Option(min=1, help="Keep channels a multiple of this; the target's own "
                                                             "without it, or 1.")] = None,
    spare: Annotated[list[str] | None, typer.Option(help="Layers that keep their channels, such as 'head.*'; repeat "
                                                         "for more.")] = None,
    steps: Annotated[int, typer.Option(min=1, help="Prune and fine-tune so many times.")] = 1,
    train: Annotated[str | None, typer.Option(help="file.py:loader, batches to fine-tune on.")] = None,
    loss: Annotated[str, typer.Option(help="cross_entropy, bce, mse, or file.py:step of your own.")] = "cross_entropy",
    epochs: Annotated[int, typer.Option(min=1, help="Of fine-tuning, after each step.")] = 1,
    learning_rate: Annotated[float, typer.Option(help="Of fine-tuning.")] = 1e-3,
    evaluate: Annotated[str | None, typer.Option(help="file.py:function, (module) -> score.")] = None,
    max_drop: Annotated[float | None, typer.Option(help="Largest loss of the score; what loses more is given up for "
                                                        "the last good step.")] = None,
    folder: Annotated[Path | None, typer.Option(help="Keep each step here; a run that was stopped goes on.")] = None,
) -> None:
    """Prune, fine-tune and write."""
    from trtkit.compress.pruning.prune import prune as prune_module
    from trtkit.compress.pruning.spec import Goal, Importance, Method, PruneSpec, Scope
    from trtkit.compress.training.named import evaluate_named, loader_named, step_named
    from trtkit.export import load_module, save_checkpoint

    board = get_target(target, targets) if target is not None else None
    chosen = Precision.parse(precision)
    spec = PruneSpec(amount=amount, method=_one(Method, "--method", method), goal=_one(Goal, "--goal", goal),
                     importance=_one(Importance, "--importance", importance), scope=_one(Scope, "--scope", scope),
                     round_to=round_to or (board.channel_multiple(chosen) if board else 1),
                     spare=NodeSelector(tuple(spare or ())), steps=steps, max_drop=max_drop)
    require_folder(output)
    example = example_arrays(inputs)
    module = load_module(factory, weights)
    loader = loader_named(train) if train else None
    step = step_named(loss) if train else None
    with rich_progress() as progress:
        pruned = prune_module(
            module, example, spec, loader=loader, step=step, progress=progress, folder=folder,
            finetune=_finetuning(loader, step, epochs, learning_rate, folder, spec.method, progress),
            evaluate=evaluate_named(evaluate) if evaluate else None,
            latency=_latency(spec.goal, example, board, chosen, table))
    save_checkpoint(pruned.module, output)
    _show(pruned.report, output)
    shapes = " ".join(f"--input {shlex.quote(text)}" for text in inputs)
    console.print(f"Go on with: trtkit export {shlex.quote(factory)} --weights {shlex.quote(str(output))} {shapes} "
                  f"-o {shlex.quote(output.stem)}.onnx", markup=False, soft_wrap=True)


def _one(kind: Any, flag: str, text: str) -> Any:
    """Return the member of an enum that has this value."""
    try:
        return kind(text.lower())
    except ValueError as err:
        raise SpecError(f"{flag} '{text}' is unknown. Choose one of: {', '.join(each.value for each in kind)}") from err


def _finetuning(loader: Any, step: Any, epochs: int, learning_rate: float, folder: Path | None, method: Method,
                progress: Any) -> Callable[[Any, int], None] | None:
    from trtkit.compress.pruning.masks import Masks
    from trtkit.compress.pruning.spec import Method as Methods
    from trtkit.compress.training.loop import fit
    from trtkit.compress.training.spec import TrainSpec

    if loader is None:
        return None
    spec = TrainSpec(epochs=epochs, learning_rate=learning_rate)

    def finetune(module: Any, number: int) -> None:
        after = None if method is Methods.CHANNELS else Masks.of(module).apply
        fit(module, loader, step, spec, folder=folder / f"step-{number}" if folder else None, after_step=after,
            progress=progress)

    return finetune


def _latency(goal: Goal, example: Any, target: Target | None, precision: Precision,
             table: Path | None) -> Latency | None:
    from trtkit.compress.pruning.latency import MeasuredLatency, TableLatency
    from trtkit.compress.pruning.spec import Goal as Goals
    from trtkit.runtime.latency_table import LatencyTable

    if goal is not Goals.LATENCY:
        return None
    if table is not None:
        return TableLatency(LatencyTable.load(table), example, target)
    if target is None:
        raise SpecError("--goal latency needs what it is measured on. Give --target, or --table with latencies that a "
                        "board recorded (trtkit latency)")
    return MeasuredLatency(example, target, precision)


def _show(report: PruneReport, output: Path) -> None:
    layers = Table("layer", "kind", "channels", "left", "why it keeps them", box=box.SIMPLE, pad_edge=False)
    for layer in report.layers:
        layers.add_row(escape(layer.name), layer.kind, str(layer.before), str(layer.after), escape(layer.why or ""))
    steps = Table("step", "asked", "gone", "MACs", "parameters", "ms", "score", box=box.SIMPLE, pad_edge=False)
    steps.add_row("0", "-", "-", f"{report.before.macs:,}", f"{report.before.parameters:,}", _ms(report.latency),
                  _score(report.score))
    for row in report.steps:
        steps.add_row(str(row.number), f"{row.asked:.1%}", f"{row.reached:.1%}", f"{row.macs:,}",
                      f"{row.parameters:,}", _ms(row.latency), _score(row.score))
    if any(layer.before != layer.after for layer in report.layers):
        console.print(layers)
    console.print(steps)
    for note in report.notes:
        console.print(note, markup=False, highlight=False, soft_wrap=True)
    if report.stopped:
        console.print(report.stopped, markup=False, style="yellow", soft_wrap=True)
    of = report.goal.value if report.method.value == "channels" else "weights"
    console.print(f"{escape(str(output))}: {report.reached:.1%} of the {of} is gone", soft_wrap=True)


def _score(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _ms(seconds: float | None) -> str:
    return "-" if seconds is None else f"{1e3 * seconds:.3f}"
