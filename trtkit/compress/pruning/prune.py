"""A module and a PruneSpec -> a smaller or sparser module, step by step, and a report of what is gone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from trtkit.compress.pruning.channels import clone
from trtkit.compress.pruning.gradual import Cut, in_steps
from trtkit.compress.pruning.masks import Masks
from trtkit.compress.pruning.narrowing import Measure, narrowed
from trtkit.compress.pruning.report import WORTH, PruneReport, PruneStep, layer_changes
from trtkit.compress.pruning.spec import Goal, Latency, Method, PruneSpec
from trtkit.compress.pruning.two_four import sparsify_two_four
from trtkit.compress.pruning.unstructured import sparsify
from trtkit.compress.size import count
from trtkit.compress.training.spec import Evaluate, Loader, LossStep
from trtkit.export.inputs import Example, Inputs, named_inputs
from trtkit.export.options import ExportOptions
from trtkit.export.quantized import refuse_quantized
from trtkit.progress import Progress, silent

__all__ = ["Pruned", "prune"]


@dataclass(frozen=True)
class Pruned:
    """What pruning made.

    Attributes:
        module: The pruned module; the given one is unchanged.
        report: What is gone, layer by layer and step by step.
        masks: Which weights are to stay zero in further training; None where channels went.
    """

    module: nn.Module
    report: PruneReport
    masks: Masks | None = None


def prune(module: nn.Module, example: Example, spec: PruneSpec, *, loader: Loader | None = None,
          step: LossStep | None = None, finetune: Callable[[nn.Module, int], None] | None = None,
          evaluate: Evaluate | None = None, latency: Latency | None = None, folder: Path | None = None,
          progress: Progress = silent) -> Pruned:
    """Return a smaller or sparser copy of `module`.

    Args:
        module: Unchanged; on any device.
        example: One forward's inputs, as export_onnx takes them; with a batch of 1 MACs are those of one sample.
        spec: What to take out, how much, in how many steps.
        loader: Data for Importance.TAYLOR, and for choosing 2:4 weights by the error that they cause.
        step: Loss for Importance.TAYLOR.
        finetune: Called with the module, to be trained in place, and the number of the step, from 1.
        evaluate: Scores the module before pruning and after each step.
        latency: Measures seconds for Goal.LATENCY; it is called with `module` first.
        folder: Where each step is kept; a run that was stopped goes on from there.
        progress: Told of steps and candidates.

    Raises:
        SpecError: The amount cannot be reached, nothing can be pruned, a selector matches nothing, or what the spec
            needs is missing.
        ExportError: The module cannot be traced or copied, or is quantized.
        TrainingError: The folder is of another pruning.
        MissingDependencyError: torch-pruning is not installed, for Method.CHANNELS.
    """
    refuse_quantized(module)
    inputs = named_inputs(module, example, ExportOptions(batch=None))
    before = count(module, example)
    first_latency = None
    if spec.method is Method.CHANNELS:
        measure = Measure.of(module, spec.goal, example, latency)
        first_latency = measure.whole if spec.goal is Goal.LATENCY else None
        cut = _channel_cut(module, inputs, spec, measure, loader, step, progress)
    else:
        cut = _zero_cut(example, spec, loader, progress)
    shapes = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in zip(inputs.names, inputs.tensors))
    done = in_steps(module, spec, cut, finetune=finetune, evaluate=evaluate, folder=folder, identity=shapes,
                    progress=progress)
    reached = done.rows[-1].reached if done.rows else 0.0
    report = PruneReport(spec.method, spec.goal, spec.asked, reached, before, count(done.module, example),
                         layer_changes(module, done.module, done.why), done.rows, done.score, first_latency,
                         done.stopped, (WORTH[spec.method], *_distance(spec, reached, done.stopped), *done.notes))
    return Pruned(done.module, report, None if spec.method is Method.CHANNELS else Masks.of(done.module))


def _channel_cut(whole: nn.Module, inputs: Inputs, spec: PruneSpec, measure: Measure, loader: Loader | None,
                 step: LossStep | None, progress: Progress) -> Callable[[nn.Module, int], Cut]:
    original = {layer.name: layer.before for layer in layer_changes(whole, whole, {})}

    def cut(module: nn.Module, number: int) -> Cut:
        amount = spec.amounts[number - 1]
        made = narrowed(module, inputs, spec, amount, measure, original=original, loader=loader, step=step,
                        progress=progress)
        size = count(made.module, measure.example)
        seconds = measure.whole * (1.0 - made.reached) if spec.goal is Goal.LATENCY else None
        return Cut(made.module, PruneStep(number, amount, made.reached, size.macs, size.parameters, None, seconds),
                   made.why)

    return cut


def _zero_cut(example: Example, spec: PruneSpec, loader: Loader | None,
              progress: Progress) -> Callable[[nn.Module, int], Cut]:
    def cut(module: nn.Module, number: int) -> Cut:
        copied = clone(module)
        asked = spec.asked
        if spec.method is Method.TWO_FOUR:
            masks = sparsify_two_four(copied, loader=loader, batches=spec.batches, spare=spec.spare, progress=progress)
        else:
            asked = spec.amounts[number - 1]
            masks = sparsify(copied, asked, scope=spec.scope, spare=spec.spare)
        size = count(copied, example)
        row = PruneStep(number, asked, masks.sparsity, size.macs, size.parameters)
        return Cut(copied, row, {}, tuple(masks.notes), masks)

    return cut


def _distance(spec: PruneSpec, reached: float, stopped: str | None) -> tuple[str, ...]:
    """Return what is to be said when the amount was not met closely."""
    over = reached - spec.asked
    if stopped is not None or abs(over) <= spec.tolerance:
        return ()
    if over < 0:
        return (f"{reached:.1%} is gone, {-over:.1%} less than asked for.",)
    advice = " A smaller round_to comes closer." if spec.round_to > 1 else ""
    return (f"{reached:.1%} is gone, {over:.1%} more than asked for: the next smaller cut was not enough.{advice}",)
