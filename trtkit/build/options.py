"""How to build: one frozen, JSON-able value that crosses to the child process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from trtkit.errors import SpecError
from trtkit.precision import Precision
from trtkit.target import Target
from trtkit.tensors import ShapeProfile

__all__ = ["PRECISION_FLAGS", "BuildOptions"]

PRECISION_FLAGS = frozenset({"FP16", "BF16", "INT8", "FP8", "INT4", "FP4", "OBEY_PRECISION_CONSTRAINTS",
                             "PREFER_PRECISION_CONSTRAINTS"})
"""Builder flags of weak typing; with strong typing the graph carries the precision."""


@dataclass(frozen=True)
class BuildOptions:
    """How to build a plan. Every default is that of TensorRT, but for sparse_weights.

    Attributes:
        flavour: "tensorrt", "tensorrt_rtx", or "" for the first that can be imported, in this order.
        version: TensorRT that the target has, such as "10.3"; any other is refused. "": any.
        sm: Compute capability of the GPU that the target has, such as "8.7"; any other is refused. "": any.
        typing: "strong": the graph's tensor types are the precision. "weak": builder flags, TensorRT 8.5 to 10.
        precision: Strong: what the graph holds, recorded in the key. Weak: sets the builder flags of the same name;
            INT8_FP16 sets both, so that what has no scale runs in FP16 instead of FP32.
        profiles: Optimization profiles. With none and no `batch`, a model whose batch alone is dynamic is built for 1.
            For an input that is a shape tensor the three entries are its values, not its shapes.
        batch: Instead of profiles, for a model whose first sizes alone are dynamic: smallest, typical, largest batch.
        calibration_cache: Weak INT8: the cache file's bytes.
        ranges_by: How the cache reaches TensorRT: "calibrator", or "tensors": a dynamic range set on each tensor, for
            networks that refuse a calibrator, such as those that have Q/DQ nodes as well.
        dla_core: Run on this Deep Learning Accelerator, counted from 0; None for the GPU.
        gpu_fallback: Layers that the DLA cannot run go to the GPU instead of failing the build.
        workspace_bytes: Limit of the scratch memory of one layer.
        optimization_level: 0 (fast build) to 5 (fast engine); TensorRT 8.6 and later.
        tf32: Allow TF32 for FP32 layers. Off for strict FP32 parity.
        sparse_weights: Try 2:4 sparse kernels beside the dense ones. None: where some weights are 2:4 sparse and the
            GPU is not known to be older than Ampere.
        flags: More builder flags by name, such as ("VERSION_COMPATIBLE",).
        compute_capabilities: TensorRT-RTX: build for these, such as ("8.6", "8.9"). (): Ampere and later; Ada
            and later where the model holds FP8.
        timing_cache: File of measured tactics, read and replaced; a missing one starts empty. Not on TensorRT-RTX.
        plugins: Plugin libraries (.so) to load before parsing.
    """

    flavour: str = ""
    version: str = ""
    sm: str = ""
    typing: str = "strong"
    precision: Precision = Precision.FP32
    profiles: tuple[ShapeProfile, ...] = ()
    batch: tuple[int, ...] = ()
    calibration_cache: bytes | None = field(default=None, repr=False)
    ranges_by: str = "calibrator"
    dla_core: int | None = None
    gpu_fallback: bool = True
    workspace_bytes: int | None = None
    optimization_level: int | None = None
    tf32: bool = True
    sparse_weights: bool | None = None
    flags: tuple[str, ...] = ()
    compute_capabilities: tuple[str, ...] = ()
    timing_cache: Path | None = None
    plugins: tuple[Path, ...] = ()

    def __post_init__(self) -> None:
        _choose("flavour", self.flavour, ("", "tensorrt", "tensorrt_rtx"))
        _choose("typing", self.typing, ("strong", "weak"))
        _choose("ranges_by", self.ranges_by, ("calibrator", "tensors"))
        if self.batch and not (len(self.batch) == 3 and 1 <= self.batch[0] <= self.batch[1] <= self.batch[2]):
            raise SpecError(f"batch is {self.batch}. Give smallest, typical and largest, rising from 1: (1, 4, 8)")
        if self.batch and self.profiles:
            raise SpecError("Both batch and profiles are given. Give the one or the other")
        if self.workspace_bytes is not None and self.workspace_bytes < 1:
            raise SpecError(f"workspace_bytes is {self.workspace_bytes}. Give a positive number of bytes")
        if self.optimization_level is not None and not 0 <= self.optimization_level <= 5:
            raise SpecError(f"optimization_level is {self.optimization_level}. Choose 0 to 5")
        if self.dla_core is not None and self.dla_core < 0:
            raise SpecError(f"dla_core is {self.dla_core}. Cores count from 0; None means the GPU")
        clash = sorted(PRECISION_FLAGS & set(self.flags))
        if clash:
            raise SpecError(f"Flag {clash[0]} sets a precision. Ask for it as precision= with typing='weak', or lower "
                            "the model to it for strong typing: trtkit quantize")
        if self.calibration_cache is not None and not self.is_weak_int8:
            raise SpecError("A calibration cache goes with typing 'weak' and precision 'int8', not with "
                            f"'{self.typing}' and '{self.precision.value}'. Strong typing takes its scales from the "
                            "graph's Q/DQ nodes")
        if self.dla_core is not None and self.flavour == "tensorrt_rtx":
            raise SpecError("TensorRT-RTX knows no DLA and would silently build for the GPU. Use flavour 'tensorrt' on "
                            "a Jetson that has one")

    @property
    def is_weak_int8(self) -> bool:
        """Whether INT8 ranges come from a cache or a calibrator instead of the graph."""
        return self.typing == "weak" and self.precision in (Precision.INT8, Precision.INT8_FP16)

    @classmethod
    def for_target(cls, target: Target, precision: Precision, **more: Any) -> BuildOptions:
        """Return options for a target's flavour, typing, version and GPU; `more` sets or replaces other attributes.

        Raises:
            SpecError: The target runs no TensorRT, or not this precision.
        """
        if not target.is_tensorrt:
            raise SpecError(f"Target '{target.name}' runs {target.runtime}, which takes the ONNX model itself. "
                            "There is no plan to build")
        target.check(precision)
        rtx = target.runtime == "tensorrt_rtx"
        fixed: dict[str, Any] = {
            "flavour": target.runtime, "version": target.tensorrt, "typing": target.typing, "precision": precision,
            "sm": "" if rtx else target.sm, "compute_capabilities": (target.sm,) if rtx and target.sm else (),
            "dla_core": 0 if target.device == "dla" else None,
        }
        return cls(**{**fixed, **more})

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-able dict that `from_json` reads."""
        cache = self.calibration_cache
        return {**{f.name: getattr(self, f.name) for f in fields(self)},
                "precision": self.precision.value,
                "profiles": [profile.to_json() for profile in self.profiles],
                "calibration_cache": None if cache is None else cache.decode("latin-1"),
                "timing_cache": None if self.timing_cache is None else str(self.timing_cache.absolute()),
                "plugins": [str(path.absolute()) for path in self.plugins]}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> BuildOptions:
        """Read what `to_json` wrote."""
        cache, timing = data["calibration_cache"], data["timing_cache"]
        return cls(**{**data,
                      "precision": Precision(data["precision"]),
                      "profiles": tuple(map(ShapeProfile.from_json, data["profiles"])),
                      "calibration_cache": None if cache is None else cache.encode("latin-1"),
                      "batch": tuple(data["batch"]),
                      "flags": tuple(data["flags"]),
                      "compute_capabilities": tuple(data["compute_capabilities"]),
                      "timing_cache": None if timing is None else Path(timing),
                      "plugins": tuple(map(Path, data["plugins"]))})


def _choose(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise SpecError(f"{name} is '{value}'. Choose one of: {', '.join(filter(None, choices))}")
