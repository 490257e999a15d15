"""A latency kit: one file that a board measures layer by layer, without torch or onnx.

It is a ZIP archive of tiny ONNX models, lowered for one target, and an index. Each layer comes with a model that holds
it and one that differs by lacking it; the difference of their latencies is the layer's. The whole model is there, too.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from trtkit.errors import SpecError
from trtkit.files import atomic_path
from trtkit.precision import Precision
from trtkit.records import read_record
from trtkit.runtime.latency_table import Point
from trtkit.target import Target

__all__ = ["MODEL", "KitLayer", "LatencyKit", "write_kit"]

_FORMAT = 1
_INDEX = "index.json"
_CACHE = ".cache"
MODEL = "model"
"""Name of the whole model in a kit."""


@dataclass(frozen=True)
class KitLayer:
    """One layer of a kit.

    Attributes:
        point: What it is.
        model: Name of the model with the layer in it.
        base: Name of the same model without it.
    """

    point: Point
    model: str
    base: str


@dataclass(frozen=True)
class LatencyKit:
    """What an index says.

    Attributes:
        path: The file.
        target, precision: What the models were lowered for.
        layers: Layers to measure, those with one base together.
        whole: The layers of the whole model, in order.
    """

    path: Path
    target: Target
    precision: Precision
    layers: tuple[KitLayer, ...]
    whole: tuple[Point, ...]

    @classmethod
    def load(cls, path: Path) -> LatencyKit:
        """Read the index of a kit.

        Raises:
            SpecError: The file is missing, or no kit of this version.
        """
        try:
            with zipfile.ZipFile(path) as archive:
                content = json.loads(archive.read(_INDEX))
            if content["format"] != _FORMAT:
                raise ValueError(f"its format is {content['format']!r}, this trtkit reads {_FORMAT}")
            layers = tuple(KitLayer(_point(row), row["model"], row["base"]) for row in content["layers"])
            return cls(Path(path), read_record(Target, content["target"], f"'{path}' target"),
                       Precision.parse(content["precision"]), layers, tuple(map(_point, content["whole"])))
        except OSError as err:
            raise SpecError(f"Latency kit '{path}' cannot be read: {err.strerror or err}. Make one where the model is: "
                            "trtkit latency kit") from err
        except (zipfile.BadZipFile, ValueError, TypeError, KeyError) as err:
            raise SpecError(f"'{path}' is no latency kit: {err}. Copy it again, or make one where the model is: "
                            "trtkit latency kit") from err

    def read(self, name: str = MODEL) -> tuple[bytes, bytes | None]:
        """Return a model's ONNX bytes and, for a weakly typed INT8 build, its calibration cache; the whole model's
        without a name."""
        with zipfile.ZipFile(self.path) as archive:
            cached = f"{name}{_CACHE}" in archive.namelist()
            return archive.read(f"{name}.onnx"), archive.read(f"{name}{_CACHE}") if cached else None

    def fingerprint(self) -> str:
        """Return a hash of the file."""
        with open(self.path, "rb") as stream:
            digest = hashlib.sha256()
            while block := stream.read(1 << 20):
                digest.update(block)
        return digest.hexdigest()


def write_kit(path: Path, target: Target, precision: Precision, *, layers: Sequence[KitLayer], whole: Sequence[Point],
              models: Iterable[tuple[str, bytes, bytes | None]]) -> LatencyKit:
    """Write a kit, whole or not at all.

    Args:
        path: File to write.
        target, precision, layers, whole: See LatencyKit.
        models: (name, ONNX bytes, calibration cache or None) of every model that the layers name, one at a time; the
            whole model is called `MODEL`.

    Raises:
        SpecError: It cannot be written.
    """
    ordered = tuple(sorted(layers, key=lambda layer: layer.base))
    index = {"format": _FORMAT, "target": asdict(target), "precision": precision.value,
             "layers": [{**asdict(layer.point), "model": layer.model, "base": layer.base} for layer in ordered],
             "whole": [asdict(point) for point in whole]}
    with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(_INDEX, json.dumps(index, indent=1))
        for name, model, cache in models:
            archive.writestr(f"{name}.onnx", model)
            if cache is not None:
                archive.writestr(f"{name}{_CACHE}", cache)
    return LatencyKit(Path(path), target, precision, ordered, tuple(whole))


def _point(row: Mapping[str, Any]) -> Point:
    return Point(str(row["kind"]), int(row["inputs"]), int(row["outputs"]))
