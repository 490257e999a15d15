"""What a model can be lowered for: one frozen row a target, read from targets.toml and from the user's own files."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from trtkit.errors import SpecError
from trtkit.precision import Precision
from trtkit.records import check_keys, read_record, read_toml

__all__ = ["Target", "get_target", "load_targets"]

_CHOICES = {
    "runtime": ("tensorrt", "tensorrt_rtx", "onnxruntime"),
    "device": ("cuda", "dla", "cpu"),
    "typing": ("strong", "weak", ""),
}

_NEEDS = MappingProxyType({  # oldest compute capability, oldest TensorRT
    Precision.BF16: ((8, 0), (10,)),
    Precision.INT4: ((8, 0), (10,)),
    Precision.FP8: ((8, 9), (10,)),
})
"""What a GPU and TensorRT must be for a precision. Source: NVIDIA TensorRT support matrix; the FP8 and BF16 rows as
TensorRT-RTX 1.7 refuses them."""


_DLA_BOARDS = ("7.2", "8.7")


@dataclass(frozen=True)
class Target:
    """A board or GPU family, and what its runtime accepts.

    Attributes:
        name: Key of the row.
        description: For people.
        runtime: "tensorrt", "tensorrt_rtx" or "onnxruntime".
        device: "cuda", "dla" or "cpu".
        placement: Name of the quantization placement rules (trtkit.quant.placement).
        precisions: What a lowering may ask for.
        opset: ONNX opset of the FP32 model.
        typing: "strong" (the graph carries the types), "weak" (builder flags and cache); "" for ONNX Runtime.
        tensorrt: TensorRT version of the board, such as "10.3"; "" where any will do.
        sm: Compute capability, such as "8.7"; "" where several are meant.
        arch: Machine of a CPU target as platform.machine() prints it; "" otherwise.
        cpu_flags: Features that the CPU must have; "a|b" means either.
        float_channels, int8_channels: What a layer's channels should be a multiple of where it computes in FP32, FP16
            or BF16, and in 8 bits or less; see `channel_multiple`.
    """

    name: str
    description: str
    runtime: str
    device: str
    placement: str
    precisions: tuple[Precision, ...]
    opset: int
    typing: str = ""
    tensorrt: str = ""
    sm: str = ""
    arch: str = ""
    cpu_flags: tuple[str, ...] = ()
    float_channels: int = 16
    int8_channels: int = 32

    def __post_init__(self) -> None:
        for key, choices in _CHOICES.items():
            if getattr(self, key) not in choices:
                raise SpecError(f"Target '{self.name}': {key} is '{getattr(self, key)}'. "
                                f"Choose one of: {', '.join(filter(None, choices))}")
        for key in ("tensorrt", "sm"):
            if not re.fullmatch(r"(\d+(\.\d+)*)?", getattr(self, key)):
                raise SpecError(f"Target '{self.name}': {key} is '{getattr(self, key)}'. Give a version such as '10.3'")
        for key in ("float_channels", "int8_channels"):
            if getattr(self, key) < 1:
                raise SpecError(f"Target '{self.name}': {key} is {getattr(self, key)}. Give the channels of one vector "
                                "or tile, such as 16")
        if (self.device == "cpu") != (self.runtime == "onnxruntime"):
            raise SpecError(f"Target '{self.name}': device '{self.device}' does not go with runtime '{self.runtime}'. "
                            "onnxruntime runs on cpu, tensorrt and tensorrt_rtx on cuda or dla")
        if (self.typing == "") != (self.device == "cpu"):
            raise SpecError(f"Target '{self.name}': typing is '{self.typing}'. TensorRT targets are strong or weak, "
                            "CPU targets have none")
        if self.typing == "weak" and (self.runtime == "tensorrt_rtx" or self.tensorrt.split(".")[0] == "11"):
            raise SpecError(f"Target '{self.name}': TensorRT 11 and TensorRT-RTX have no weak typing. "
                            "Use typing strong")
        if self.typing == "strong" and self.tensorrt.split(".")[0] == "8":
            raise SpecError(f"Target '{self.name}': TensorRT {self.tensorrt} has no strong typing. Use typing weak")
        if self.device == "dla" and self._dla_fault():
            raise SpecError(f"Target '{self.name}': {self._dla_fault()}. Use device cuda")
        for precision in self.precisions:
            reason = self._lacks(precision)
            if reason:
                raise SpecError(f"Target '{self.name}': precisions has {precision.value}, but {reason}. Leave it out")

    @property
    def is_tensorrt(self) -> bool:
        """Whether TensorRT, of either flavour, runs it."""
        return self.runtime != "onnxruntime"

    @property
    def usual_precision(self) -> Precision:
        """What INT8 is wanted as where nothing is said: with FP16 around it where the target has that."""
        return Precision.INT8_FP16 if Precision.INT8_FP16 in self.precisions else Precision.INT8

    def check(self, precision: Precision) -> None:
        """Raise SpecError when this target cannot run `precision`."""
        if precision not in self.precisions:
            can = ", ".join(p.value for p in self.precisions)
            why = self._lacks(precision)
            raise SpecError(f"Target '{self.name}' ({self.description}) does not run {precision.value}"
                            f"{f': {why}' if why else ''}. It runs: {can}")

    def channel_multiple(self, precision: Precision) -> int:
        """Return what a pruned layer's channels should be a multiple of, so that none of its vectors is half empty.

        A runtime fills up the last vector or tile with zeros and computes it whole: channels between two multiples cost
        as much as the next one, or more.

        Source: Tensor cores: TensorRT's documentation, "Optimizing for Tensor Cores": 4 elements for TF32, 8 for FP16,
        32 for INT8. DLA: its formats kCHW16 for FP16 and kCHW32 for INT8. CPUs: ONNX Runtime's MLAS: FP32
        convolutions in blocks of 16 channels with AVX-512 and of 8 with AVX2 (NchwcBlockSize in platform.cpp), rows of
        4 on Arm (SGEMM); INT8 weights packed for 16 output channels (MlasGemmPackB, MlasConvSym). Measured on
        ONNX Runtime 1.32 and AVX-512, three 3x3 convolutions in FP32: 56 channels take as long as 64, 57 take 1.4 times
        and 63 take 1.6 times as long, 65 take as long as 80 and 81 as 96; three 1x1 ones in INT8: 48 channels 0.7, 61
        to 63 channels 1.6 to 1.8 times as long as 64.
        """
        in_float = precision in (Precision.FP32, Precision.FP16, Precision.BF16)
        return self.float_channels if in_float else self.int8_channels

    def _lacks(self, precision: Precision) -> str:
        """Return why hardware or runtime has no such precision; "" where nothing is known against it."""
        if self.device == "cpu":
            return ""
        if precision is Precision.INT8_DYNAMIC:
            return "TensorRT has no kernels for scales found at run time"
        if precision not in _NEEDS:
            return ""
        if self.device == "dla" or self.typing == "weak":
            return "DLA and the weak typing of this TensorRT know FP16 and INT8 only"
        sm, tensorrt = _NEEDS[precision]
        if self.sm and _version(self.sm) < sm:
            return f"it needs compute capability {'.'.join(map(str, sm))}, the GPU has {self.sm}"
        if self.tensorrt and _version(self.tensorrt) < tensorrt:
            return f"it needs TensorRT {'.'.join(map(str, tensorrt))}, the target has {self.tensorrt}"
        return ""

    def _dla_fault(self) -> str:
        """Return why board or TensorRT has no DLA; "" where it may have one (Orin Nano has none: the build tells)."""
        if self.runtime == "tensorrt_rtx":
            return "TensorRT-RTX never uses a DLA"
        if self.sm and self.sm not in _DLA_BOARDS:
            return (f"beside a GPU of compute capability {self.sm} there is no DLA; Xavier (7.2) and Orin (8.7) have "
                    "them, Thor has none")
        version = _version(self.tensorrt) if self.tensorrt else ()
        if (10, 7) < version[:2] < (11, 4) or version[:3] == (11, 4, 0):
            return f"TensorRT {self.tensorrt} drives no DLA: 10.7 was the last that did, and 11.4.1 does again"
        return ""

    def runs_on(self, machine: str, cpu_flags: frozenset[str]) -> bool:
        """Whether a CPU target runs on a machine with this architecture and these features."""
        return self.device == "cpu" and self.arch == machine and all(
            any(flag in cpu_flags for flag in either.split("|")) for either in self.cpu_flags)


def load_targets(extra: Path | None = None) -> Mapping[str, Target]:
    """Return every target by name: the built-in rows, then those of the user's file, which win.

    Raises:
        SpecError: A row has an unknown key, lacks one, or contradicts itself.
    """
    rows = _built_in() if extra is None else {**_built_in(), **_read_rows(extra)}
    return MappingProxyType(rows)


def get_target(name: str, extra: Path | None = None) -> Target:
    """Return one target.

    Raises:
        SpecError: There is none of that name.
    """
    targets = load_targets(extra)
    if name not in targets:
        raise SpecError(f"Target '{name}' is unknown. There are: {', '.join(targets)}. "
                        "A TOML file of your own adds more: --targets FILE")
    return targets[name]


@lru_cache(maxsize=1)
def _built_in() -> dict[str, Target]:
    return _read_rows(Path(__file__).with_name("targets.toml"))


def _read_rows(path: Path) -> dict[str, Target]:
    return {name: _row(name, values, path) for name, values in read_toml(path).items()}


def _version(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(".")))


def _row(name: str, values: Any, path: Path) -> Target:
    what = f"'{path}': target '{name}'"
    check_keys(values, tuple(f.name for f in fields(Target) if f.name != "name"), what)
    return read_record(Target, {**values, "name": name}, what)
