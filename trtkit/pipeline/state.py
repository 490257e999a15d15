"""What one step hands to the next."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx

from trtkit.bundle.compression import CompressionRow
from trtkit.bundle.manifest import BundleManifest
from trtkit.evaluate.accuracy import Accuracy
from trtkit.precision import Precision
from trtkit.preprocess import Preprocess
from trtkit.quant.lower import Lowered
from trtkit.ranges import CalibrationTable
from trtkit.recipe import Recipe
from trtkit.runtime.bench import BenchResult, Paired
from trtkit.target import Target

__all__ = ["Candidate", "State", "Trained"]


@dataclass(frozen=True)
class Candidate:
    """One target in one precision, on its way into the bundle.

    Attributes:
        target, precision: What it is for.
        lowered: The model as the target gets it.
        model: Its file; candidates with equal bytes share one.
        cache: File of its calibration cache, on the weak path.
        plan: File of the engine, where this machine could build it.
        accuracy: On the evaluation data; of the simulation where the target computes elsewhere.
        agreement: Share of samples on which it puts the same class first as FP32 does.
        latency: Measured, where this machine is such a target.
        speedup: Against FP32 on the same target, measured in turns.
        kept: Layers that stay in float so that the accuracy stays within the recipe's budget.
        dropped: Why it does not go into the bundle; "" when it does.
    """

    target: Target
    precision: Precision
    lowered: Lowered
    model: Path
    cache: Path | None = None
    plan: Path | None = None
    accuracy: Accuracy | None = None
    agreement: float | None = None
    latency: BenchResult | None = None
    speedup: Paired | None = None
    kept: tuple[str, ...] = ()
    dropped: str = ""

    def __str__(self) -> str:
        return f"{self.target.name} {self.precision.value}"

    @property
    def size_bytes(self) -> int:
        """Of what the target loads: the plan where there is one, else the model."""
        return (self.plan or self.model).stat().st_size

    @property
    def threads(self) -> int | None:
        """The number of threads that the latency was measured with; None where there is none."""
        return None if self.latency is None else self.latency.conditions.get("threads")

    def measurements(self) -> dict[str, Any]:
        """Return what was measured, as the manifest has it."""
        numbers: dict[str, Any] = {}
        if self.accuracy is not None:
            named = {"top1": self.accuracy.top1, "top5": self.accuracy.top5, "agreement": self.agreement,
                     "mean_average_precision": self.accuracy.mean_average_precision,
                     "samples": self.accuracy.samples}
            numbers.update({key: value for key, value in named.items() if value is not None})
            numbers["accuracy_from"] = "onnxruntime simulation" if self.target.is_tensorrt else "onnxruntime"
        if self.latency is not None:
            numbers.update(p50_ms=self.latency.p50_ms, p90_ms=self.latency.p90_ms, p99_ms=self.latency.p99_ms,
                           conditions=dict(self.latency.conditions))
        else:
            numbers["speed"] = "not measured, since no such machine was there; on it: trtkit tune"
        if self.speedup is not None:
            numbers.update(speedup_over_fp32=self.speedup.ratio,
                           speedup_interval=[self.speedup.low, self.speedup.high])
        if self.kept:
            numbers["kept_in_float"] = list(self.kept)
        return numbers


@dataclass(frozen=True)
class Trained:
    """A model that was trained on integer grids.

    Attributes:
        model: FP32, with the trained weights.
        table: Its calibration, with the trained scales.
        precisions: What it is for; everything else is lowered from the model before.
    """

    model: onnx.ModelProto
    table: CalibrationTable | None
    precisions: tuple[Precision, ...]


@dataclass(frozen=True)
class State:
    """Everything known so far; each step returns a new one.

    Attributes:
        recipe: What is wanted.
        model: The FP32 model after the passes that every target shares; what the table was made from.
        preprocess: What stays on the host.
        reference: Accuracy of the FP32 model in ONNX Runtime.
        table: Of the calibration sweep.
        trained: On integer grids, where the recipe asks for that.
        compression: What each step of compression made of the model, the original first.
        candidates: One a target and precision.
        manifest: Of the bundle, once it is written.
        notes: What a person should read, in order.
    """

    recipe: Recipe
    model: onnx.ModelProto | None = None
    preprocess: Preprocess | None = None
    reference: Accuracy | None = None
    table: CalibrationTable | None = None
    trained: Trained | None = None
    compression: tuple[CompressionRow, ...] = ()
    candidates: tuple[Candidate, ...] = ()
    manifest: BundleManifest | None = None
    notes: tuple[str, ...] = field(default=())

    @property
    def graph(self) -> onnx.ModelProto:
        """The FP32 model; a step that needs it comes after the one that makes it."""
        assert self.model is not None
        return self.model

    def quantized_from(self, precision: Precision) -> tuple[onnx.ModelProto, CalibrationTable | None]:
        """Return the FP32 model that a precision is lowered from, and its calibration."""
        if self.trained is not None and precision in self.trained.precisions:
            return self.trained.model, self.trained.table
        return self.graph, self.table
