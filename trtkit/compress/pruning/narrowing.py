"""A module and a share to take away -> the module with that much less, in one go."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from trtkit.compress.pruning.channels import Coupled, clone, coupled_channels, without
from trtkit.compress.pruning.importance import unit_scores
from trtkit.compress.pruning.removal import Block, fewest, gone_after, removal_order
from trtkit.compress.pruning.soundness import unsound
from trtkit.compress.pruning.spec import Goal, Latency, PruneSpec
from trtkit.compress.pruning.weights import spared_modules
from trtkit.compress.size import count, parameters_of
from trtkit.compress.training.spec import Loader, LossStep
from trtkit.errors import SpecError
from trtkit.export.inputs import Example, Inputs
from trtkit.progress import Progress, silent

__all__ = ["Measure", "Narrowed", "narrowed"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Measure:
    """What an amount is a share of.

    Attributes:
        goal: MACs, parameters or seconds.
        whole: Of the module before the first step, in these units.
        example: One forward's inputs.
        latency: Measures seconds, for Goal.LATENCY.
    """

    goal: Goal
    whole: float
    example: Example
    latency: Latency | None = None

    @classmethod
    def of(cls, module: nn.Module, goal: Goal, example: Example, latency: Latency | None) -> Measure:
        """Return the measure with `module` as the whole.

        Raises:
            SpecError: Goal.LATENCY without something that measures it, or there is nothing to take away.
        """
        if goal is Goal.LATENCY and latency is None:
            raise SpecError("Goal latency needs something that measures it. Give latency=MeasuredLatency(...) or a "
                            "TableLatency (--target, --table), or choose goal macs")
        whole = cls(goal, 1.0, example, latency).value(module)
        if not whole > 0:
            raise SpecError(f"The module's {goal.value} are {whole:g}, so there is no share of them to take away. "
                            "Choose another goal")
        return cls(goal, whole, example, latency)

    def value(self, module: nn.Module) -> float:
        """Return what `module` costs, in MACs, parameters or seconds."""
        if self.goal is Goal.PARAMS:
            return float(parameters_of(module))
        if self.goal is Goal.LATENCY and self.latency is not None:
            return float(self.latency(module))
        return float(count(module, self.example).macs)

    def gone(self, module: nn.Module) -> float:
        """Return the share of the whole that `module` no longer costs."""
        return 1.0 - self.value(module) / self.whole


@dataclass(frozen=True)
class Narrowed:
    """A module with fewer channels.

    Attributes:
        module: A copy.
        reached: Share of the whole that is gone.
        why: Layers that could lose nothing, with the reason.
    """

    module: nn.Module
    reached: float
    why: Mapping[str, str]


def narrowed(module: nn.Module, inputs: Inputs, spec: PruneSpec, amount: float, measure: Measure, *,
             original: Mapping[str, int], loader: Loader | None = None, step: LossStep | None = None,
             progress: Progress = silent) -> Narrowed:
    """Return `module` with so few channels that `amount` of the whole is gone.

    The order in which channels leave is settled once; how many of them leave is found by bisection, each candidate
    being made and measured.

    Args:
        module: Unchanged.
        inputs: Of one forward.
        spec: What to take out and what to spare.
        amount: Share of the whole to be gone, at least; less `spec.tolerance` if no more can go.
        measure: What the amount is a share of.
        original: Output channels of each layer before the first step.
        loader, step: For Taylor importance.
        progress: Told of each candidate.

    Raises:
        SpecError: So much cannot go, or nothing can; a selector matches nothing.
        ExportError: The module cannot be traced or copied.
    """
    spared = spared_modules(module, spec.spare)
    sets, why = coupled_channels(clone(module), inputs)
    for each in sets:
        if spared.intersection(each.layers):
            why.update(dict.fromkeys(each.layers, "spared, as asked for"))
    sets = [each for each in sets if not spared.intersection(each.layers)]
    scores = unit_scores(module, inputs, sets, spec, loader=loader, step=step)
    _tell(why, {each.name: f"importance {spec.importance.value} says nothing about it" for each in sets
                if each.name not in scores}, sets)
    blocks = removal_order(sets, scores, spec, original)
    first = {name: units for name, units in gone_after(_firsts(blocks)).items()}
    _tell(why, {each.name: f"{each.channels} channels are too few to take a multiple of {spec.round_to} away"
                for each in sets if each.name not in first and each.name in scores
                and each.channels == original.get(each.name)}, sets)
    refused = unsound(module, inputs, sets, first)
    _tell(why, refused, sets)
    blocks = [block for block in blocks if block.name not in refused]
    if not blocks:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in list(why.items())[:4])
        raise SpecError(f"No layer of {type(module).__name__} can lose channels ({reasons}). Spare less, lower "
                        "round_to, or use method unstructured")
    return _searched(module, inputs, sets, blocks, spec, amount, measure, why, progress)


def _firsts(blocks: list[Block]) -> list[Block]:
    """Return the first block of each set."""
    return list({block.name: block for block in reversed(blocks)}.values())


def _tell(why: dict[str, str], reasons: Mapping[str, str], sets: list[Coupled]) -> None:
    for each in sets:
        if each.name in reasons:
            why.update({layer: reasons[each.name] for layer in each.layers if layer not in why})
            logger.info("Channels of %s stay: %s", each.name, reasons[each.name])


def _searched(module: nn.Module, inputs: Inputs, sets: list[Coupled], blocks: list[Block], spec: PruneSpec,
              amount: float, measure: Measure, why: Mapping[str, str], progress: Progress) -> Narrowed:
    """Return the module without the fewest blocks that reach the amount."""
    coupled = {each.name: each for each in sets}
    tried: dict[int, tuple[nn.Module, float]] = {}

    def gone(number: int) -> float:
        progress("Searching the amount", len(tried), None)
        candidate = without(module, inputs, coupled, gone_after(blocks[:number]))
        reached = measure.gone(candidate)
        for worse in [other for other, (_, share) in tried.items() if (share >= amount) == (reached >= amount)]:
            del tried[worse]  # bisection comes closer with every candidate on one side
        tried[number] = candidate, reached
        return reached

    if amount < spec.amount:  # told before hours of fine-tuning, not after them
        _refuse_too_much(gone(len(blocks)), spec.amount, spec, measure, why)
    number = fewest(len(blocks), lambda blocks_gone: gone(blocks_gone) >= amount)
    if number not in tried:
        gone(number)
    pruned, reached = tried[number]
    _refuse_too_much(reached, amount, spec, measure, why)
    return Narrowed(pruned, reached, why)


def _refuse_too_much(most: float, amount: float, spec: PruneSpec, measure: Measure, why: Mapping[str, str]) -> None:
    if most < amount - spec.tolerance:
        raise SpecError(f"{amount:.0%} of the {measure.goal.value} cannot go: {most:.1%} is the most, with "
                        f"{len(why)} layers spared, max_layer_amount {spec.max_layer_amount:g} and round_to "
                        f"{spec.round_to}. Lower the amount, spare less, or raise max_layer_amount")
