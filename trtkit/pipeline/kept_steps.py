"""What a step of compression depends on -> a fingerprint, and a folder that holds the step's result under it."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from trtkit.bundle.compression import CompressionRow
from trtkit.compress.training.spec import TrainSpec
from trtkit.errors import SpecError
from trtkit.files import atomic_write
from trtkit.pipeline.compress_steps import sources, trainings
from trtkit.recipe import CompressStep, Recipe, TrainSection

__all__ = ["KeptStep", "fingerprint_of", "fingerprint_of_model"]

logger = logging.getLogger(__name__)

_STEP, _ROW = "step.json", "row.json"


@dataclass(frozen=True)
class KeptStep:
    """The folder of one step.

    Attributes:
        folder: step.json says what it is of; module.safetensors and model.onnx are its result, row.json what that
            measured, and the rest checkpoints and logs.
        fingerprint: Of everything that the result depends on.
    """

    folder: Path
    fingerprint: str

    @property
    def module(self) -> Path:
        """Weights and sizes of the module."""
        return self.folder / "module.safetensors"

    @property
    def onnx(self) -> Path:
        """The module, exported."""
        return self.folder / "model.onnx"

    @property
    def facts(self) -> dict[str, Any] | None:
        """What `finish` wrote; None where the step is not finished, or was another one."""
        found = _read(self.folder / _STEP)
        return found.get("facts") if found.get("fingerprint") == self.fingerprint and self.onnx.exists() else None

    def open(self) -> None:
        """Make the folder; what a step of another fingerprint left in it is removed.

        Raises:
            SpecError: It cannot be made.
        """
        if self.folder.exists() and _read(self.folder / _STEP).get("fingerprint") != self.fingerprint:
            logger.info("'%s' was made by another step; begun anew", self.folder)
            shutil.rmtree(self.folder)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as err:
            raise SpecError(f"Folder '{self.folder}' cannot be made: {err.strerror}. Name another: "
                            "work = 'FOLDER'") from err
        _write(self.folder / _STEP, {"fingerprint": self.fingerprint})

    def finish(self, facts: dict[str, Any]) -> None:
        """Say that the result is there; checkpoints go, logs stay."""
        _write(self.folder / _STEP, {"fingerprint": self.fingerprint, "facts": facts})
        for path in self.folder.rglob("*.safetensors"):
            if path != self.module:
                path.unlink()

    def row(self, measured: str) -> CompressionRow | None:
        """Return what was measured of the result in this way; None where it was not."""
        found = _read(self.folder / _ROW)
        if found.get("fingerprint") != f"{self.fingerprint} {measured}":
            return None
        try:
            return CompressionRow.from_json(found["row"])
        except (KeyError, SpecError):
            return None

    def keep_row(self, measured: str, row: CompressionRow) -> None:
        """Keep what was measured."""
        _write(self.folder / _ROW, {"fingerprint": f"{self.fingerprint} {measured}", "row": row.to_json()})


def fingerprint_of_model(recipe: Recipe) -> str:
    """Return a hash of the model that a recipe starts from: its settings, the factory's file and the weights."""
    model = recipe.model
    files = (model.onnx, model.weights, _file(model.factory))
    return _hashed([repr(model), *_contents(files)])


def fingerprint_of(step: CompressStep, before: str, recipe: Recipe) -> str:
    """Return a hash of what the result of a step depends on.

    The files that name loader, loss, teacher and student are part of it; the pictures that a loader reads are not.

    Args:
        step: See there.
        before: Fingerprint of the step before.
        recipe: Of the evaluation, which may end a pruning.
    """
    files = [_file(name) for section in trainings(step) for name in (section.data, section.loss)]
    files += [path for source in sources(step) for path in (_file(source.factory), source.weights)]
    files.append(getattr(step, "table", None))
    judged = repr((recipe.evaluate, recipe.preprocess, recipe.postprocess)) if step.name == "prune" else ""
    return _hashed([before, step.name, repr(_told(step)), judged, *_contents(files)])


def _told(step: CompressStep) -> CompressStep:
    """Return the step without what its result does not depend on: where it trains, and how often it is saved."""
    changes: dict[str, Any] = {key: replace(section, spec=replace(section.spec, device=TrainSpec.device,
                                                  checkpoint_seconds=TrainSpec.checkpoint_seconds))
               for key, section in vars(step).items() if isinstance(section, TrainSection)}
    return replace(step, **changes)


def _file(name: str) -> Path | None:
    place = name.rpartition(":")[0]
    return Path(place) if place.endswith(".py") else None


def _contents(files: Iterable[Path | None]) -> list[str]:
    """Return a hash of each file's bytes; "" of one that is absent, which a step tells."""
    return [hashlib.sha256(path.read_bytes()).hexdigest() if path is not None and path.is_file() else ""
            for path in files]


def _hashed(parts: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]


def _read(path: Path) -> dict[str, Any]:
    """Return a JSON file; an empty dict for one that is absent or damaged, so that the step is done again."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _write(path: Path, content: dict[str, Any]) -> None:
    atomic_write(path, json.dumps(content, indent=1, sort_keys=True).encode())
