"""A module, batches and a loss -> the module trained in place; a run that is killed goes on where it was."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import nn

from trtkit.compress.training.batches import announce, count_batches, device_for, shapes, to_device
from trtkit.compress.training.checkpoint import Checkpoint, refuse_other
from trtkit.compress.training.log import Row, plot_curve, write_log
from trtkit.compress.training.optimizer import learning_rate, optimizer_for
from trtkit.compress.training.random_state import RandomState, seeded
from trtkit.compress.training.spec import Evaluate, Loader, LossStep, TrainSpec
from trtkit.compress.training.state import TrainState, identity_of
from trtkit.errors import MissingDependencyError, SpecError, TrainingError, TrtkitError
from trtkit.export.adapter import evaluating
from trtkit.progress import Progress, silent

__all__ = ["CHECKPOINT", "CURVE", "LOG", "Fit", "fit"]

logger = logging.getLogger(__name__)

CHECKPOINT, LOG, CURVE = "checkpoint.safetensors", "log.csv", "curve.png"
"""Names of the files in a training's folder."""

_SMALLEST_SCALE = 2.0**-14
"""Loss scale of mixed precision below which no gradient was finite for very many steps; it starts at 2**16."""


@dataclass(frozen=True)
class Fit:
    """How a training went.

    Attributes:
        history: A row a step, of resumed steps as well.
        resumed: Steps that a checkpoint held already.
    """

    history: tuple[Row, ...]
    resumed: int = 0

    @property
    def scores(self) -> tuple[float, ...]:
        """Score after each epoch; empty without an evaluation."""
        return tuple(row.score for row in self.history if row.score is not None)

    @property
    def score(self) -> float | None:
        """Score after the last epoch, which is that of the module as it is now."""
        return self.scores[-1] if self.scores else None

    @property
    def best_score(self) -> float | None:
        """Highest score after any epoch."""
        return max(self.scores, default=None)


def fit(module: nn.Module, loader: Loader, step: LossStep, spec: TrainSpec, *, folder: Path | None = None,
        evaluate: Evaluate | None = None, after_step: Callable[[nn.Module], None] | None = None, identity: str = "",
        progress: Progress = silent) -> Fit:
    """Train a module in place.

    Random numbers are seeded for the while, and where they were before afterwards; so is each submodule's mode, and
    the device. Frozen parameters (requires_grad False) stay as they are.

    Args:
        module: Trained; it holds the last epoch's weights in the end.
        loader: Batches of one epoch each time it is iterated.
        step: (module, batch on its device) -> loss.
        spec: How it is trained.
        folder: Made when it is not there. Holds the checkpoint, log.csv and, with matplotlib, curve.png. A run that
            was stopped goes on from the checkpoint, bit for bit as if it had not been on the CPU; the epoch's first
            batches are loaded again to get there, and a DataLoader with persistent workers that draw random numbers
            may give others. A finished one is read and returned.
        evaluate: Scores the module after each epoch.
        after_step: Called with the module after each optimizer step, such as `masks.apply`.
        identity: What else the result depends on, such as a teacher; the folder of another is refused.
        progress: Told of the batches of each epoch.

    Raises:
        TrainingError: The loader is empty or a batch does not fit the module; the loss is no tensor of one element,
            NaN or infinite; nothing is trainable; the checkpoint is damaged, of another model or of other settings,
            or cannot be written (the one before is intact).
    """
    device = device_for(spec.device)
    with _at(module, device), seeded(spec.seed, device):
        run = _Run(module, loader, step, spec, device, evaluate, after_step, progress)
        if folder is not None:
            run.open(_made(folder), identity)
        resumed = len(run.state.rows)
        while run.state.epoch < spec.epochs:
            run.train_epoch()
    if folder is not None:
        write_log(run.state.rows, folder / LOG)
        _try_plot(run.state.rows, folder / CURVE)
    return Fit(tuple(run.state.rows), resumed)


class _Run:
    """A training under way."""

    def __init__(self, module: nn.Module, loader: Loader, step: LossStep, spec: TrainSpec, device: torch.device,
                 evaluate: Evaluate | None, after_step: Callable[[nn.Module], None] | None,
                 progress: Progress) -> None:
        self.module, self.loader, self.loss_step, self.spec, self.device = module, loader, step, spec, device
        self.evaluate, self.after_step, self.progress = evaluate, after_step, progress
        self.batches = count_batches(loader)
        self.amp = spec.amp and device.type == "cuda"
        self.state = TrainState(module, optimizer_for(module, spec),
                                torch.amp.GradScaler(device.type, enabled=self.amp))
        self.path: Path | None = None
        self.identity: dict[str, str] = {}
        self.saved = time.monotonic()

    def open(self, folder: Path, identity: str) -> None:
        """Write checkpoints to this folder, and go on from the one that is there."""
        self.path = folder / CHECKPOINT
        self.identity = identity_of(self.module, self.spec, self.batches, identity)
        checkpoint = Checkpoint.load(self.path)
        if checkpoint is not None:
            refuse_other(self.path, checkpoint.facts["identity"], self.identity)
            self.state.restore(checkpoint)
            logger.info("Going on after step %d from %s", len(self.state.rows), self.path)

    def train_epoch(self) -> None:
        """Take the steps that are left of this epoch, score the module and write a checkpoint."""
        state, epoch = self.state, f"epoch {self.state.epoch + 1}/{self.spec.epochs}"
        announce(self.loader, state.epoch)
        for batch in self._batches_left():
            self._step(to_device(batch, self.device))
            state.batch += 1
            self.progress(f"Training {epoch}, loss {state.rows[-1].loss:.4g}", state.batch,
                          max(self.batches, state.batch))
            if time.monotonic() - self.saved >= self.spec.checkpoint_seconds:
                self._save()
        if not state.batch:
            raise TrainingError(f"The loader gives no batch in {epoch}. Give one that starts again each time it is "
                                "iterated")
        if self.evaluate is not None:
            state.rows[-1] = replace(state.rows[-1], score=self._score(self.evaluate, epoch))
        state.epoch, state.batch = state.epoch + 1, 0
        self._save()

    def _batches_left(self) -> Iterator[Any]:
        """Yield the batches that this epoch has not seen, in the order that random numbers gave at its beginning."""
        state = self.state
        now, state.now_random = state.now_random, None
        if now is None or state.epoch_random is None or not state.batch:
            if now is not None:
                now.restore(self.loader, self.device)
            state.epoch_random = RandomState.take(self.loader, self.device)
            yield from self.loader
            return
        state.epoch_random.restore(self.loader, self.device)
        batches = iter(self.loader)
        for _ in islice(batches, state.batch):
            pass
        now.restore(self.loader, self.device)
        yield from batches

    def _save(self) -> None:
        if self.path is not None:
            random = RandomState.take(self.loader, self.device)
            self.state.checkpoint(self.identity, random).save(self.path)
            write_log(self.state.rows, self.path.with_name(LOG))
            self.saved = time.monotonic()

    def _step(self, batch: Any) -> None:
        state, optimizer, scaler = self.state, self.state.optimizer, self.state.scaler
        rate = learning_rate(self.spec, len(state.rows), self.spec.epochs * self.batches)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad(set_to_none=True)
        loss = self._loss(batch)
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        self._limit_gradients(loss.item())
        scaler.step(optimizer)
        scaler.update()
        if self.after_step is not None:
            self.after_step(self.module)
        state.rows.append(Row(state.epoch + 1, len(state.rows) + 1, loss.item(), rate))

    def _limit_gradients(self, loss: float) -> None:
        """Clip the gradients; where they are not finite, mixed precision leaves out the step, and else it is an error.
        """
        trained = [weight for weight in self.module.parameters() if weight.requires_grad]
        norm = nn.utils.clip_grad_norm_(trained, self.spec.clip_norm or math.inf)
        lost = self.state.scaler.get_scale() < _SMALLEST_SCALE if self.amp else not torch.isfinite(norm)
        if lost:
            raise TrainingError(f"The gradients are NaN or infinite at {self._place()}, with a loss of {loss}. Lower "
                                "learning_rate, or look for a square root or a logarithm of 0 in the module; set amp "
                                "to False where FP16 overflows")

    def _loss(self, batch: Any) -> torch.Tensor:
        try:
            with torch.autocast(self.device.type, torch.float16, enabled=self.amp):
                loss = self.loss_step(self.module, batch)
        except TrtkitError:
            raise
        except Exception as err:
            raise TrainingError(f"The step fails at {self._place()}, whose batch is {shapes(batch)}: "
                                f"{type(err).__name__}: {err}. Change what the loader gives, or the step") from err
        if not isinstance(loss, torch.Tensor) or loss.numel() != 1 or not loss.requires_grad:
            raise TrainingError(f"The step returns {shapes(loss)} for a loss. Return a tensor of one element that has "
                                "a gradient, such as a mean that was computed outside no_grad")
        if not torch.isfinite(loss):
            raise TrainingError(f"The loss is {loss.item()} at {self._place()}, whose batch is {shapes(batch)}. Look "
                                "for NaN in that batch; lower learning_rate, or set clip_norm")
        return loss.reshape(())

    def _score(self, evaluate: Evaluate, epoch: str) -> float:
        self.progress(f"Evaluating {epoch}", 0, 1)
        with evaluating(self.module):
            score = float(evaluate(self.module))
        if not math.isfinite(score):
            raise TrainingError(f"The score after {epoch} is {score}. Give an evaluation that returns a finite number")
        self.progress(f"Evaluating {epoch}", 1, 1)
        return score

    def _place(self) -> str:
        state = self.state
        return f"step {len(state.rows) + 1} (epoch {state.epoch + 1}, batch {state.batch + 1} of {self.batches})"


@contextmanager
def _at(module: nn.Module, device: torch.device) -> Iterator[None]:
    """Put a module on a device and in training mode; after the block it is where and as it was."""
    weight = next(module.parameters(), None)
    home = device if weight is None else weight.device
    modes = [(each, each.training) for each in module.modules()]
    module.to(device).train()
    try:
        yield
    finally:
        for each, training in modes:
            each.training = training
        module.to(home)


def _made(folder: Path) -> Path:
    """Return the folder, made when it is not there, without what a run that was killed while it wrote left behind."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in (CHECKPOINT, LOG, CURVE):
            for left in folder.glob(f".{name}.*.part"):
                left.unlink()
    except OSError as err:
        raise SpecError(f"Folder '{folder}' cannot be made: {err.strerror}. Name another one") from err
    return folder


def _try_plot(rows: list[Row], path: Path) -> None:
    try:
        plot_curve(rows, path)
    except MissingDependencyError as err:
        logger.info("No curve was drawn: %s", err)
