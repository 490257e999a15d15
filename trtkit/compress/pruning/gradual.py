"""Cut, fine-tune, score, again: the steps of a pruning, each on disk before the next, until all are done or one is bad.

Folder: `pruning.json` with what is done, `step-N.safetensors` for the module after each step, and
`step-N.cut.safetensors` for a step that is not fine-tuned yet. A run that was stopped goes on with the step it was in.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from trtkit.compress.pruning.channels import clone
from trtkit.compress.pruning.masks import Masks
from trtkit.compress.pruning.report import PruneStep
from trtkit.compress.pruning.spec import Method, PruneSpec
from trtkit.compress.training.checkpoint import digest, refuse_other
from trtkit.compress.training.spec import Evaluate
from trtkit.errors import SpecError, TrainingError
from trtkit.export.adapter import evaluating
from trtkit.export.loading import load_weights
from trtkit.export.saving import save_checkpoint
from trtkit.files import atomic_write
from trtkit.progress import Progress, silent

__all__ = ["Cut", "Steps", "in_steps"]

logger = logging.getLogger(__name__)

_STATE = "pruning.json"


@dataclass(frozen=True)
class Cut:
    """A module with less in it.

    Attributes:
        module: A copy.
        row: What is gone and what is left; without a score.
        why: Layers that could lose nothing, with the reason.
        notes: What a user must know.
        masks: Which weights are to stay zero; None where channels went.
    """

    module: nn.Module
    row: PruneStep
    why: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    masks: Masks | None = None


@dataclass(frozen=True)
class Steps:
    """What the steps made.

    Attributes:
        module: After the last good step; a copy of the first one when there was none.
        rows: Good steps.
        score: Before the first step; None when nothing evaluates.
        why, notes: Of the cuts.
        stopped: Why a step was given up; None when all were good.
    """

    module: nn.Module
    rows: tuple[PruneStep, ...] = ()
    score: float | None = None
    why: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    stopped: str | None = None


def in_steps(module: nn.Module, spec: PruneSpec, cut: Callable[[nn.Module, int], Cut], *,
             finetune: Callable[[nn.Module, int], None] | None = None, evaluate: Evaluate | None = None,
             folder: Path | None = None, identity: str = "", progress: Progress = silent) -> Steps:
    """Return the module after all steps of `spec`, or after the last good one.

    Args:
        module: Unchanged.
        spec: Number of steps, and the largest loss of the score.
        cut: Makes the module of step `number`, from 1, from the one before.
        finetune: Trains the module of a step in place.
        evaluate: Scores a module.
        folder: Where the steps are kept; a run that was stopped goes on from there. None keeps nothing.
        identity: What else the result depends on.
        progress: Told of each step.

    Raises:
        TrainingError: The folder is of another pruning, or damaged.
        SpecError: It cannot be written; what is in it is intact. Or a score is no number.
    """
    state = _State.opened(folder, {"spec": repr(spec), "module": digest(module.state_dict()), "inputs": identity},
                          spec.method is not Method.CHANNELS)
    steps = state.steps(module)
    if steps.score is None and evaluate is not None:
        progress("Evaluating", 0, 1)
        steps = replace(steps, score=_scored(module, evaluate, "before pruning"))
        progress("Evaluating", 1, 1)
    for number in range(len(steps.rows) + 1, spec.steps + 1):
        if steps.stopped:
            break
        progress(f"Pruning step {number} of {spec.steps}", number - 1, spec.steps)
        made = state.cut(number, steps, cut)
        if finetune is not None:
            finetune(made.module, number)
        notes = tuple(dict.fromkeys((*steps.notes, *made.notes, *_restored(made, number))))
        score = None if evaluate is None else _scored(made.module, evaluate, f"after step {number}")
        fault = _fault(made.module, score, steps.score, spec, trained=finetune is not None)
        if fault:
            stopped = (f"Step {number} of {spec.steps} ({made.row.asked:.1%} asked, {made.row.reached:.1%} gone): "
                       f"{fault}. Kept: {_kept(steps)}")
            logger.warning("%s", stopped)
            steps = replace(steps, notes=notes, stopped=stopped)
        else:
            row = replace(made.row, score=score)
            steps = replace(steps, module=made.module, rows=(*steps.rows, row), why=made.why, notes=notes)
        state.keep(number, steps)
        progress(f"Pruning step {number} of {spec.steps}", number, spec.steps)
    return steps


def _fault(module: nn.Module, score: float | None, start: float | None, spec: PruneSpec, *,
           trained: bool) -> str | None:
    """Return why the module of a step is no good; None when it is."""
    bad = [name for name, weight in module.named_parameters() if not bool(torch.isfinite(weight).all())]
    if bad:
        return f"weights are not finite after fine-tuning, the first in '{bad[0]}'. Lower the learning rate"
    if score is None or start is None:
        return None
    if spec.max_drop is not None and not score >= start - spec.max_drop:
        return f"the score is {score:.4g}, {start - score:.4g} below {start:.4g}, and max_drop is {spec.max_drop:g}"
    if spec.max_drop is None and trained and start > 0 and not score >= start / 2:
        return f"the score collapsed from {start:.4g} to {score:.4g}, less than half"
    return None


def _kept(steps: Steps) -> str:
    if not steps.rows:
        return "the module as it was. Prune less, in more steps, or fine-tune longer"
    return f"step {steps.rows[-1].number}, {steps.rows[-1].reached:.1%} gone"


def _restored(cut: Cut, number: int) -> tuple[str, ...]:
    """Set to zero what is to stay zero, and tell when it was not."""
    if cut.masks is None:
        return ()
    weights = dict(cut.module.named_parameters(remove_duplicate=False))
    moved = any(bool((weights[name][~mask.to(weights[name].device)] != 0).any())
                for name, mask in cut.masks.kept.items())
    cut.masks.apply(cut.module)
    return (f"Fine-tuning of step {number} moved weights that are to stay zero; they were set to zero after it. Keep "
            "them while it trains: fit(after_step=Masks.of(module).apply)",) if moved else ()


def _scored(module: nn.Module, evaluate: Evaluate, when: str) -> float:
    with evaluating(module):
        score = evaluate(module)
    try:
        score = float(score)
    except (TypeError, ValueError) as err:
        raise SpecError(f"The score {when} is a {type(score).__name__}, not a number. Have evaluate return "
                        "one") from err
    if math.isnan(score) and when == "before pruning":
        raise SpecError("The score before pruning is NaN. Check the weights and the evaluation")
    return score


@dataclass(frozen=True)
class _State:
    """A folder of steps; keeps nothing without a folder."""

    folder: Path | None
    identity: Mapping[str, str]
    masked: bool

    @classmethod
    def opened(cls, folder: Path | None, identity: Mapping[str, str], masked: bool) -> _State:
        if folder is not None:
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as err:
                raise SpecError(f"Folder '{folder}' cannot be made: {err.strerror}. Name another one") from err
        return cls(folder, identity, masked)

    def steps(self, module: nn.Module) -> Steps:
        """Return what is done already, checked."""
        facts = self._facts()
        if facts is None or self.folder is None:
            return Steps(clone(module))
        try:
            rows = tuple(PruneStep(**row) for row in facts["rows"])
            steps = Steps(clone(module), rows, facts["score"], facts["why"], tuple(facts["notes"]), facts["stopped"])
        except (KeyError, TypeError) as err:
            raise self._damaged(str(err)) from err
        if rows:
            load_weights(steps.module, self._file(rows[-1].number))
            logger.info("Steps 1 to %d are in '%s' already", rows[-1].number, self.folder)
        return steps

    def cut(self, number: int, steps: Steps, cut: Callable[[nn.Module, int], Cut]) -> Cut:
        """Return the module of a step before fine-tuning: as a stopped run left it, else a new one."""
        facts = (self._facts() or {}).get("cut") or {}
        path = self._file(number, ".cut")
        if facts and facts["row"]["number"] == number and path.exists():
            module = clone(steps.module)
            load_weights(module, path)
            masks = Masks.of(module) if self.masked else None
            return Cut(module, PruneStep(**facts["row"]), facts["why"], tuple(facts["notes"]), masks)
        made = cut(steps.module, number)
        if self.folder is not None:
            save_checkpoint(made.module, path)
            self._write(steps, {"row": asdict(made.row), "why": dict(made.why), "notes": list(made.notes)})
        return made

    def keep(self, number: int, steps: Steps) -> None:
        """Write a step that is finished, good or bad."""
        if self.folder is None:
            return
        if not steps.stopped:
            save_checkpoint(steps.module, self._file(number))
        self._write(steps, None)
        self._file(number, ".cut").unlink(missing_ok=True)

    def _write(self, steps: Steps, cut: Any) -> None:
        facts = {"identity": dict(self.identity), "rows": [asdict(row) for row in steps.rows], "score": steps.score,
                 "why": dict(steps.why), "notes": list(steps.notes), "stopped": steps.stopped, "cut": cut}
        if self.folder is not None:
            atomic_write(self.folder / _STATE, json.dumps(facts, indent=1).encode())

    def _facts(self) -> dict[str, Any] | None:
        if self.folder is None or not (self.folder / _STATE).exists():
            return None
        try:
            facts: dict[str, Any] = json.loads((self.folder / _STATE).read_text())
            was = dict(facts["identity"])
        except (OSError, ValueError, KeyError, TypeError) as err:
            raise self._damaged(str(err)) from err
        refuse_other(self.folder / _STATE, was, self.identity)
        return facts

    def _file(self, number: int, kind: str = "") -> Path:
        return (self.folder or Path()) / f"step-{number}{kind}.safetensors"

    def _damaged(self, reason: str) -> TrainingError:
        return TrainingError(f"'{self.folder}/{_STATE}' is no state of a pruning, or a damaged one ({reason}). "
                             "Remove the folder to start anew")
