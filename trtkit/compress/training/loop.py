"""A module, batches and a loss -> the module trained in place; a run that is killed goes on where it was."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, astuple, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import nn

from trtkit.compress.training.batches import announce, count_batches, device_for, shapes, to_device
from trtkit.compress.training.checkpoint import Checkpoint, digest, refuse_other
from trtkit.compress.training.log import Row, plot_curve, write_log
from trtkit.compress.training.optimizer import learning_rate, optimizer_for
from trtkit.compress.training.random_state import RandomState, seeded
from trtkit.compress.training.spec import Evaluate, Loader, LossStep, TrainSpec
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
        batches = count_batches(loader)
        run = _Run(module, loader, step, spec, device, batches, evaluate, after_step, progress)
        if folder is not None:
            run.open(_made(folder), identity)
        resumed = len(run.rows)
        while run.epoch < spec.epochs:
            run.train_epoch()
    if folder is not None:
        write_log(run.rows, folder / LOG)
        _try_plot(run.rows, folder / CURVE)
    return Fit(tuple(run.rows), resumed)


class _Run:
    """A training between two steps: all that a checkpoint holds."""

    def __init__(self, module: nn.Module, loader: Loader, step: LossStep, spec: TrainSpec, device: torch.device,
                 batches: int, evaluate: Evaluate | None, after_step: Callable[[nn.Module], None] | None,
                 progress: Progress) -> None:
        self.module, self.loader, self.loss_step, self.spec, self.device = module, loader, step, spec, device
        self.batches, self.evaluate, self.after_step, self.progress = batches, evaluate, after_step, progress
        self.optimizer = optimizer_for(module, spec)
        self.trained = [weight for weight in module.parameters() if weight.requires_grad]
        self.amp = spec.amp and device.type == "cuda"
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.amp)
        self.rows: list[Row] = []
        self.epoch = self.batch = 0
        self.epoch_random: RandomState | None = None
        self.now_random: RandomState | None = None
        self.path: Path | None = None
        self.identity: dict[str, str] = {}
        self.saved = time.monotonic()

    def open(self, folder: Path, identity: str) -> None:
        """Write checkpoints to this folder, and go on from the one that is there."""
        self.path = folder / CHECKPOINT
        self.identity = self._identity(identity)
        checkpoint = Checkpoint.load(self.path)
        if checkpoint is not None:
            refuse_other(self.path, checkpoint.facts["identity"], self.identity)
            self._restore(checkpoint)
            logger.info("Going on after step %d from %s", len(self.rows), self.path)

    def train_epoch(self) -> None:
        """Take the steps that are left of this epoch, score the module and write a checkpoint."""
        announce(self.loader, self.epoch)
        for batch in self._batches_left():
            self._step(to_device(batch, self.device))
            self.batch += 1
            self.progress(f"Training epoch {self.epoch + 1}/{self.spec.epochs}, loss {self.rows[-1].loss:.4g}",
                          self.batch, max(self.batches, self.batch))
            if self.path and time.monotonic() - self.saved >= self.spec.checkpoint_seconds:
                self._save()
        if not self.batch:
            raise TrainingError(f"The loader gives no batch in epoch {self.epoch + 1}. Give one that starts again each "
                                "time it is iterated")
        if self.evaluate is not None:
            last = self.rows[-1]
            self.rows[-1] = Row(last.epoch, last.step, last.loss, last.learning_rate, self._score(self.evaluate))
        self.epoch, self.batch = self.epoch + 1, 0
        self._save()

    def _batches_left(self) -> Iterator[Any]:
        """Yield the batches that this epoch has not seen; the order is that of its beginning."""
        now, self.now_random = self.now_random, None
        if now is not None and self.epoch_random is not None and self.batch:
            self.epoch_random.restore(self.loader, self.device)
            batches = iter(self.loader)
            for _ in islice(batches, self.batch):
                pass
            now.restore(self.loader, self.device)
        else:
            if now is not None:
                now.restore(self.loader, self.device)
            self.epoch_random = RandomState.take(self.loader, self.device)
            batches = iter(self.loader)
        yield from batches

    def _step(self, batch: Any) -> None:
        rate = learning_rate(self.spec, len(self.rows), self.spec.epochs * self.batches)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        loss = self._loss(batch)
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self.trained, self.spec.clip_norm or math.inf)
        if self.scaler.get_scale() < _SMALLEST_SCALE if self.amp else not torch.isfinite(norm):
            raise TrainingError(f"The gradients are NaN or infinite at {self._place()}, with a loss of {float(loss)}. "
                                "Lower learning_rate, or set amp to False")
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.after_step is not None:
            self.after_step(self.module)
        self.rows.append(Row(self.epoch + 1, len(self.rows) + 1, float(loss.detach()), rate))

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
            what = f"{shapes(loss)} without a gradient" if isinstance(loss, torch.Tensor) and loss.numel() == 1 \
                else shapes(loss)
            raise TrainingError(f"The step returns {what} for a loss. Return a tensor of one element that was computed "
                                "with gradients, such as a mean")
        if not torch.isfinite(loss):
            raise TrainingError(f"The loss is {float(loss)} at {self._place()}, whose batch is {shapes(batch)}. Look "
                                "for NaN in that batch; lower learning_rate, or set clip_norm")
        return loss.reshape(())

    def _score(self, evaluate: Evaluate) -> float:
        self.progress(f"Evaluating epoch {self.epoch + 1}/{self.spec.epochs}", 0, 1)
        with evaluating(self.module):
            score = float(evaluate(self.module))
        if not math.isfinite(score):
            raise TrainingError(f"The score after epoch {self.epoch + 1} is {score}. Give an evaluation that returns a "
                                "finite number")
        self.progress(f"Evaluating epoch {self.epoch + 1}/{self.spec.epochs}", 1, 1)
        return score

    def _place(self) -> str:
        return f"step {len(self.rows) + 1} (epoch {self.epoch + 1}, batch {self.batch + 1} of {self.batches})"

    def _identity(self, identity: str) -> dict[str, str]:
        settings = {name: str(getattr(value, "value", value)) for name, value in asdict(self.spec).items()
                    if name not in ("device", "checkpoint_seconds")}
        frozen = [name for name, weight in self.module.named_parameters() if not weight.requires_grad]
        return settings | {"batches in an epoch": str(self.batches), "model": type(self.module).__name__,
                           "weights at the start": digest(_tensors(self.module))[:16],
                           "frozen parameters": ", ".join(frozen) or "none", "identity": identity or "none"}

    def _save(self) -> None:
        if self.path is None or self.epoch_random is None:
            return
        tensors = {f"module.{name}": tensor for name, tensor in _tensors(self.module).items()}
        plain: dict[str, Any] = {}
        for number, state in self.optimizer.state_dict()["state"].items():
            for name, value in state.items():
                (tensors if isinstance(value, torch.Tensor) else plain)[f"optimizer.{number}.{name}"] = value
        tensors["history"] = torch.tensor([[math.nan if value is None else value for value in astuple(row)]
                                           for row in self.rows], dtype=torch.float64)
        facts = {"identity": self.identity, "step": len(self.rows), "epoch": self.epoch, "batch": self.batch,
                 "optimizer": plain, "scaler": self.scaler.state_dict(), "epoch_random": asdict(self.epoch_random),
                 "now_random": asdict(RandomState.take(self.loader, self.device))}
        Checkpoint(tensors, facts).save(self.path)
        write_log(self.rows, self.path.with_name(LOG))
        self.saved = time.monotonic()

    def _restore(self, checkpoint: Checkpoint) -> None:
        facts = checkpoint.facts
        self.module.load_state_dict(checkpoint.below("module."), strict=False)
        state: dict[int, dict[str, Any]] = {}
        for name, value in {**checkpoint.below("optimizer."), **_below(facts["optimizer"], "optimizer.")}.items():
            number, _, key = name.partition(".")
            state.setdefault(int(number), {})[key] = value
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": state})
        if self.amp and facts["scaler"]:
            self.scaler.load_state_dict(facts["scaler"])
        self.rows = [Row(int(epoch), int(step), loss, rate, None if math.isnan(score) else score)
                     for epoch, step, loss, rate, score in checkpoint.tensors["history"].tolist()]
        self.epoch, self.batch = facts["epoch"], facts["batch"]
        self.now_random = RandomState(**facts["now_random"])
        self.epoch_random = RandomState(**facts["epoch_random"])


def _tensors(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value for name, value in module.state_dict().items() if isinstance(value, torch.Tensor)}


def _below(values: dict[str, Any], prefix: str) -> dict[str, Any]:
    return {name[len(prefix):]: value for name, value in values.items()}


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
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as err:
        raise SpecError(f"Folder '{folder}' cannot be made: {err.strerror}. Name another one") from err
    return folder


def _try_plot(rows: list[Row], path: Path) -> None:
    try:
        plot_curve(rows, path)
    except MissingDependencyError as err:
        logger.info("No curve was drawn: %s", err)
