"""The tables [train] and [[compress]] of a recipe's file -> their dataclasses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from trtkit.compress.distillation.spec import DistillSpec
from trtkit.compress.pruning.spec import PruneSpec
from trtkit.compress.qat.spec import Scales
from trtkit.compress.training.spec import TrainSpec
from trtkit.errors import SpecError
from trtkit.precision import Precision
from trtkit.recipe.compress import (
    CompressStep,
    DistillStep,
    FinetuneStep,
    ModuleSource,
    PruneStep,
    QatStep,
    ResolutionStep,
    TrainSection,
)
from trtkit.records import check_keys, read_record, read_value
from trtkit.target import Target, get_target

__all__ = ["named_in", "read_steps"]

_LOSSES = ("cross_entropy", "bce", "mse")
_TRAIN = ("data", "loss")
_OWN: dict[str, tuple[str, ...]] = {
    "prune": ("finetune", "target", "precision", "latency_table"),
    "finetune": (),
    "distill": ("teacher", "teacher_weights", "student", "student_weights", "width", "depth"),
    "resolution": ("size", "finetune"),
    "qat": ("target", "precision", "scales"),
}
"""Keys of each step besides `step`, `train` and those of its specification. DistillSpec.hard_loss is [train] loss."""

_SPECS: dict[str, type] = {"prune": PruneSpec, "distill": DistillSpec}


def named_in(folder: Path, text: str) -> str:
    """Return "file.py:name" with the file below `folder`; "pkg.module:name" stays as it is."""
    place, colon, name = text.rpartition(":")
    return f"{folder / place}{colon}{name}" if place.endswith(".py") else text


def read_steps(data: Mapping[str, Any], folder: Path, own_targets: Path | None) -> tuple[CompressStep, ...]:
    """Return the steps of a recipe.

    Args:
        data: All of its file.
        folder: That relative paths start from.
        own_targets: File of the user's targets.

    Raises:
        SpecError: A key is unknown or missing, or a value is not usable.
    """
    if "train" in data:
        _train(data["train"], "[train]", folder)
    rows = data.get("compress", [])
    if not isinstance(rows, list):
        raise SpecError(f"compress is {rows!r}. Write each step as a table of its own: [[compress]] step = 'prune'")
    return tuple(_Row(row, number, data.get("train"), folder, own_targets).read()
                 for number, row in enumerate(rows, start=1))


class _Row:
    """One [[compress]] table, and what it is read with."""

    def __init__(self, row: Any, number: int, train: Mapping[str, Any] | None, folder: Path,
                 own_targets: Path | None) -> None:
        self.what = f"[[compress]] {number}"
        if not isinstance(row, Mapping) or row.get("step") not in list(_OWN):
            step = row.get("step") if isinstance(row, Mapping) else row
            raise SpecError(f"{self.what} has step = {step!r}. Choose one of: {', '.join(_OWN)}")
        self.row, self.base, self.folder, self.own_targets = row, train, folder, own_targets
        self.step: str = row["step"]
        self.what += f" ({self.step})"
        spec = _SPECS.get(self.step)
        of_spec = tuple(each.name for each in fields(spec) if each.name != "hard_loss") if spec else ()
        check_keys(row, ("step", "train", *_OWN[self.step], *of_spec), self.what)
        self.spec = {key: value for key, value in row.items() if key in of_spec}

    def read(self) -> CompressStep:
        """Return the step; what its dataclass refuses is told with the number of the table."""
        try:
            step: CompressStep = getattr(self, f"_{self.step}")()
        except SpecError as err:
            raise err if str(err).startswith("[") else SpecError(f"{self.what}: {err}") from err
        return step

    def _prune(self) -> PruneStep:
        target, precision = self._target(), self._value(Precision, "precision", Precision.FP32)
        spec = read_record(PruneSpec, self.spec, self.what)
        if target is not None:
            target.check(precision)
            if "round_to" not in self.spec:
                spec = replace(spec, round_to=target.channel_multiple(precision))
        reads = self._training() if self._has_data else None
        finetuned = self._value(bool, "finetune", True)
        return PruneStep(spec, self._training() if finetuned else None, reads, target, precision,
                         self._path("latency_table"))

    def _finetune(self) -> FinetuneStep:
        return FinetuneStep(self._training())

    def _distill(self) -> DistillStep:
        train = self._training()
        told = {"logits", "tags"} & set(self.spec)
        spec = self.spec if told or train.loss != "bce" else {**self.spec, "logits": 0.0, "tags": 1.0}
        return DistillStep(read_record(DistillSpec, spec, self.what), train, self._module("teacher"),
                           self._module("student"), self._value(float, "width", 1.0),
                           self._value(float, "depth", 1.0))

    def _resolution(self) -> ResolutionStep:
        if "size" not in self.row:
            raise SpecError(f"{self.what} has no 'size'. Give height and width in pixels, such as [160, 160]")
        size: tuple[int, int] = read_value(tuple[int, int], self.row["size"], f"{self.what} size")
        return ResolutionStep(size, self._training() if self._value(bool, "finetune", False) else None)

    def _qat(self) -> QatStep:
        target = self._target()
        if target is None:
            raise SpecError(f"{self.what} has no 'target'. Name the [[target]] whose integer grids it trains for")
        precision = self._value(Precision, "precision", target.usual_precision)
        train = self._training()
        if "learning_rate" not in self.row.get("train", {}):  # what is trained already needs small steps
            train = replace(train, spec=replace(train.spec, learning_rate=train.spec.learning_rate / 10))
        return QatStep(target, precision, train, self._value(Scales, "scales", Scales.LEARNED))

    @property
    def _has_data(self) -> bool:
        own = self.row.get("train", {})
        return self.base is not None or (isinstance(own, Mapping) and "data" in own)

    def _training(self) -> TrainSection:
        """Return [train] with the step's own changes."""
        own = self.row.get("train", {})
        _check_train(own, f"{self.what} train")
        if not self._has_data:
            leave = ", or finetune = false" if self.step == "prune" else ""
            raise SpecError(f"{self.what} trains, and there is no [train] section. Add: [train] data = "
                            f"'data.py:loader'{leave}")
        return _train({**(self.base or {}), **own}, f"{self.what} train", self.folder)

    def _target(self) -> Target | None:
        name: str | None = self._value(str, "target", None)
        return None if name is None else get_target(name, self.own_targets)

    def _module(self, key: str) -> ModuleSource | None:
        factory, weights = self._value(str, key, None), self._path(f"{key}_weights")
        if factory is None:
            if weights is not None:
                raise SpecError(f"{self.what} has {key}_weights and no {key}. Name its factory, such as 'model.py:net'")
            return None
        if ":" not in factory:
            raise SpecError(f"{self.what} {key} is '{factory}'. Write file.py:name or pkg.module:name of its factory")
        return ModuleSource(named_in(self.folder, factory), weights)

    def _path(self, key: str) -> Path | None:
        path: Path | None = self._value(Path, key, None)
        return None if path is None else self.folder / path

    def _value(self, hint: Any, key: str, default: Any) -> Any:
        return read_value(hint, self.row[key], f"{self.what} {key}") if key in self.row else default


def _check_train(table: Any, what: str) -> None:
    check_keys(table, (*_TRAIN, *(each.name for each in fields(TrainSpec))), what)


def _train(table: Any, what: str, folder: Path) -> TrainSection:
    _check_train(table, what)
    if "data" not in table:
        raise SpecError(f"{what} has no 'data'. Name a loader: data = 'data.py:loader'")
    data, loss = (read_value(str, table.get(key, default), f"{what} {key}")
                  for key, default in (("data", ""), ("loss", "cross_entropy")))
    if ":" not in data:
        raise SpecError(f"{what} data is '{data}'. Write file.py:name or pkg.module:name of a loader")
    if ":" not in loss and loss not in _LOSSES:
        raise SpecError(f"{what} loss is '{loss}'. Choose one of: {', '.join(_LOSSES)}; or file.py:function of "
                        "your own")
    spec = read_record(TrainSpec, {key: value for key, value in table.items() if key not in _TRAIN}, what)
    return TrainSection(named_in(folder, data), loss if loss in _LOSSES else named_in(folder, loss), spec)
