"""Layers measured one by one on a target -> the latency of any model that is made of such layers, in seconds.

    latency(model) = factor * sum(latency(layer))

The factor is that of a whole model, measured on the same target: it stands for all that is no layer of its own, and for
what a runtime gains by seeing the whole graph. Between two measured widths a layer is interpolated; first its channels
are rounded up to the target's channel multiple, since that is what a runtime computes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from trtkit.errors import SpecError
from trtkit.files import atomic_write
from trtkit.precision import Precision
from trtkit.tensors import Array

__all__ = ["LatencyTable", "Point"]

_FORMAT = 1


@dataclass(frozen=True)
class Point:
    """One layer at one width.

    Attributes:
        kind: Everything about it but its channels: operator, kernel, stride, spatial size, activation.
        inputs, outputs: Its channels.
    """

    kind: str
    inputs: int
    outputs: int


@dataclass(frozen=True)
class LatencyTable:
    """Latencies of layers on one target.

    Attributes:
        target: Name of the target.
        precision: What the layers ran in.
        multiple: Channels that the target computes at once.
        seconds: Latency of each point that was measured; of each kind a full grid of inputs and outputs, or, where the
            channels stay apart (depthwise), points with as many outputs as inputs.
        factor: Latency of a whole model over the sum of its layers.
        conditions: Of the measurement.
    """

    target: str
    precision: Precision
    multiple: int
    seconds: Mapping[Point, float]
    factor: float
    conditions: Mapping[str, Any] = field(default_factory=dict)

    def predict(self, points: Iterable[Point]) -> float:
        """Return the latency of a model made of these layers, in seconds.

        Raises:
            SpecError: The table lacks a kind of layer, or is of narrower ones only.
        """
        return self.factor * sum(self.layer_seconds(point) for point in points)

    def layer_seconds(self, point: Point) -> float:
        """Return the latency of one layer, in seconds; below the narrowest that was measured, that one's.

        Raises:
            SpecError: The table lacks this kind of layer, or is of narrower ones only.
        """
        if point.kind not in self._grids:
            raise SpecError(f"The latency table for '{self.target}' has no layer '{point.kind}'. It has, among others: "
                            f"{'; '.join(list(self._grids)[:3])}. Make the kit from this model, at this input size")
        return self._grids[point.kind].at(point, self.multiple)

    @cached_property
    def _grids(self) -> dict[str, _Grid]:
        kinds: dict[str, dict[tuple[int, int], float]] = {}
        for point, seconds in self.seconds.items():
            kinds.setdefault(point.kind, {})[point.inputs, point.outputs] = seconds
        return {kind: _Grid(cells) for kind, cells in kinds.items()}

    def save(self, path: Path) -> None:
        """Write the table as JSON, whole or not at all.

        Raises:
            SpecError: It cannot be written.
        """
        rows = [{"kind": p.kind, "inputs": p.inputs, "outputs": p.outputs, "seconds": seconds}
                for p, seconds in self.seconds.items()]
        content = {"format": _FORMAT, "target": self.target, "precision": self.precision.value,
                   "multiple": self.multiple, "factor": self.factor, "conditions": dict(self.conditions),
                   "layers": rows}
        atomic_write(Path(path), (json.dumps(content, indent=1) + "\n").encode())

    @classmethod
    def load(cls, path: Path) -> LatencyTable:
        """Read what `save` wrote.

        Raises:
            SpecError: The file is missing, or no latency table of this version.
        """
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
            if content["format"] != _FORMAT:
                raise ValueError(f"its format is {content['format']!r}, this trtkit reads {_FORMAT}")
            rows = {Point(str(row["kind"]), int(row["inputs"]), int(row["outputs"])): float(row["seconds"])
                    for row in content["layers"]}
            return cls(str(content["target"]), Precision.parse(content["precision"]), int(content["multiple"]), rows,
                       float(content["factor"]), content["conditions"])
        except OSError as err:
            raise SpecError(f"Latency table '{path}' cannot be read: {err.strerror}. Record one on the board: "
                            "trtkit latency record KIT -o TABLE") from err
        except (ValueError, TypeError, KeyError) as err:
            fault = f"no {err}" if isinstance(err, KeyError) else str(err)
            raise SpecError(f"'{path}' is no latency table: {fault}. Record it again on the board: "
                            "trtkit latency record KIT -o TABLE") from err


class _Grid:
    """Latencies of one kind of layer over its channels."""

    def __init__(self, cells: Mapping[tuple[int, int], float]) -> None:
        self.inputs = sorted({inputs for inputs, _ in cells})
        self.outputs = sorted({outputs for _, outputs in cells})
        self.apart = len(cells) < len(self.inputs) * len(self.outputs)
        self.values: Array = np.array([cells[width, width] for width in self.inputs] if self.apart else
                                      [[cells[i, o] for o in self.outputs] for i in self.inputs], np.float64)

    def at(self, point: Point, multiple: int) -> float:
        """Return the latency of a layer of this kind: bilinear, as multiply-accumulates and memory traffic are."""
        inputs = _rounded(point.inputs, self.inputs, multiple, point)
        if self.apart:
            return float(np.interp(inputs, self.inputs, self.values))
        outputs = _rounded(point.outputs, self.outputs, multiple, point)
        column = [float(np.interp(outputs, self.outputs, row)) for row in self.values]
        return float(np.interp(inputs, self.inputs, column))


def _rounded(width: int, measured: list[int], multiple: int, point: Point) -> int:
    """Return the width that a runtime computes, within what was measured."""
    if width > measured[-1]:
        raise SpecError(f"Layer '{point.kind}' has {point.inputs} inputs and {point.outputs} outputs; the table "
                        f"ends at {measured[-1]}. Make the kit from the widest model")
    return width if width in measured else min(-(-width // multiple) * multiple, measured[-1])
