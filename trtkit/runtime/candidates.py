"""Manifest + machine -> what could run here, best first, and what could not and why. Pure: opens and builds nothing.

    0. where everything that fits was measured on this machine (trtkit tune): by those numbers
    1. plans that fit the GPU and TensorRT of this machine
    2. plans that TensorRT can build here from an ONNX artifact of the bundle
    3. ONNX artifacts on the CPU: what was measured on such a CPU and is faster than FP32; FP32; what computes at all
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from trtkit.bundle.manifest import Artifact, BundleManifest
from trtkit.device import Device, TensorRt
from trtkit.errors import SpecError
from trtkit.precision import Precision
from trtkit.runtime.measured import Setting, setting_key
from trtkit.target import Target, load_targets

__all__ = ["Candidate", "Ranking", "Wish", "rank"]

Action = Literal["load", "build", "cpu"]

_FASTEST_FIRST = (Precision.INT8_FP16, Precision.INT8, Precision.FP8, Precision.FP16, Precision.BF16, Precision.INT4,
                  Precision.INT8_DYNAMIC, Precision.FP32)
"""Where nothing was measured, on a GPU."""


@dataclass(frozen=True)
class Wish:
    """What the caller wants.

    Attributes:
        device: "auto", "cpu" or "cuda".
        target: Only artifacts of this target; any when None.
        precision: Only artifacts of this precision; any when None.
    """

    device: str = "auto"
    target: str | None = None
    precision: Precision | None = None

    def __post_init__(self) -> None:
        if self.device not in ("auto", "cpu", "cuda"):
            raise SpecError(f"device is '{self.device}'. Choose one of: auto, cpu, cuda")


@dataclass(frozen=True)
class Candidate:
    """One way to run the model.

    Attributes:
        artifact: The plan or ONNX model.
        action: "load" a plan, "build" a plan here, or run ONNX on the "cpu".
        reason: Why it stands where it does.
        fits: Whether it was made for such a machine, so that it is worth measuring; else it is a way out.
        setting: How it runs best, or that it does not run, where that was measured, here or on such a machine.
    """

    artifact: Artifact
    action: Action
    reason: str
    fits: bool = True
    setting: Setting | None = None

    @property
    def key(self) -> str:
        """What its measurements are kept by."""
        return setting_key(self.artifact, "cpu" if self.action == "cpu" else "cuda")


@dataclass(frozen=True)
class Ranking:
    """All ways to run the model, best first, and a sentence for each artifact or group that cannot be used."""

    candidates: tuple[Candidate, ...]
    rejected: tuple[str, ...]


def rank(manifest: BundleManifest, device: Device, wish: Wish | None = None, *, can_build: bool = False,
         measured_here: Mapping[str, Setting] | None = None) -> Ranking:
    """Return what of a bundle could run on a device, best first.

    Args:
        manifest: Of the bundle.
        device: The machine.
        wish: What the caller wants.
        can_build: Whether there is something that builds plans.
        measured_here: What MeasuredHere has; it decides when it knows of every candidate that fits.

    Raises:
        SpecError: The bundle has nothing of the target or precision that the caller wants.
    """
    wish = wish or Wish()
    artifacts = _wished(manifest, wish)
    targets = {target.name: target for target in (*manifest.targets, *load_targets().values())}
    rejected: list[str] = []
    candidates: list[Candidate] = []
    if wish.device != "cpu":
        candidates += _on_gpu(artifacts, targets, device, can_build, rejected)
    if wish.device != "cuda":
        candidates += _on_cpu(artifacts, targets, device, rejected)
    return Ranking(tuple(_as_measured(candidates, measured_here or {})), tuple(rejected))


def _as_measured(candidates: list[Candidate], here: Mapping[str, Setting]) -> list[Candidate]:
    """Return the candidates with the fastest on this machine first, when all that fit were measured; else as they are.

    Half a measurement would favour what happened to be in it.
    """
    if not all(each.key in here for each in candidates if each.fits):
        return candidates
    ran: list[tuple[float, Candidate]] = []
    others: list[Candidate] = []
    for each in candidates:
        setting = here.get(each.key) if each.fits else None
        if setting is None or setting.p50_ms is None:
            others.append(replace(each, setting=setting))
        else:
            how = ", ".join(filter(None, (f"{setting.p50_ms:.2f} ms", str(setting))))
            reason = f"the fastest measured on this machine ({how})"
            ran.append((setting.p50_ms, replace(each, reason=reason, setting=setting)))
    return [each for _, each in sorted(ran, key=lambda pair: pair[0])] + others


def _wished(manifest: BundleManifest, wish: Wish) -> list[Artifact]:
    chosen = [a for a in manifest.artifacts
              if wish.target in (None, a.target) and wish.precision in (None, a.precision)]
    if not chosen:
        asked = " ".join(filter(None, (wish.target, wish.precision and wish.precision.value)))
        there = ", ".join(dict.fromkeys(f"{a.target} {a.precision.value}" for a in manifest.artifacts))
        raise SpecError(f"Bundle '{manifest.name}' has nothing for {asked}. It has: {there}")
    return chosen


def _on_gpu(artifacts: list[Artifact], targets: Mapping[str, Target], device: Device, can_build: bool,
            rejected: list[str]) -> list[Candidate]:
    sources = [a for a in artifacts if a.kind == "onnx" and a.target in targets and targets[a.target].is_tensorrt]
    plans = [a for a in artifacts if a.kind == "plan"]
    if not (plans or sources):
        return []
    if device.gpu is None:
        rejected.append("TensorRT artifacts: this machine has no usable NVIDIA GPU")
        return []
    candidates = list(_loadable(plans, device, rejected))
    loaded = {(each.artifact.target, each.artifact.precision) for each in candidates}
    if device.tensorrt is None:
        rejected.append("building a plan here: no TensorRT can be imported")
    elif not can_build:
        rejected.append("building a plan here: not asked for (trtkit.open does it)")
    else:
        for each in _buildable(sources, targets, device, device.tensorrt, rejected):
            twice = (each.artifact.target, each.artifact.precision) in loaded
            candidates.append(replace(each, fits=not twice))
    return candidates


def _loadable(plans: Iterable[Artifact], device: Device, rejected: list[str]) -> Iterator[Candidate]:
    fitting = []
    for artifact in plans:
        fit = artifact.engine.fits(device) if artifact.engine else None
        if fit:
            fitting.append(artifact)
        elif fit is not None:
            rejected.append(f"{artifact}: {' '.join(fit.reasons)}")
    for artifact in sorted(fitting, key=_by_speed):
        yield Candidate(artifact, "load", f"a plan built for this GPU and TensorRT{_measured(artifact)}")


def _buildable(sources: Iterable[Artifact], targets: Mapping[str, Target], device: Device, tensorrt: TensorRt,
               rejected: list[str]) -> Iterator[Candidate]:
    able = []
    for artifact in sources:
        fault = _build_fault(targets[artifact.target], tensorrt)
        if fault:
            rejected.append(f"building {artifact} here: {fault}")
        else:
            able.append(artifact)
    for artifact in sorted(able, key=lambda a: (_distance(targets[a.target], device, tensorrt), _by_speed(a))):
        yield Candidate(artifact, "build", f"no plan fits, so {tensorrt.module} {tensorrt.version} builds one here")


def _build_fault(target: Target, tensorrt: TensorRt) -> str:
    """Return why this TensorRT cannot build what was lowered for `target`; "" when it can."""
    major = _release(tensorrt.version)[0]
    if target.runtime != tensorrt.module:
        return f"it was lowered for {target.runtime}, this machine has {tensorrt.module}"
    if target.typing == "weak" and (tensorrt.module == "tensorrt_rtx" or major > 10):
        return f"it is weakly typed, and TensorRT {tensorrt.version} has strong typing only"
    if target.typing == "strong" and tensorrt.module == "tensorrt" and major < 10:
        return f"it is strongly typed, and TensorRT {tensorrt.version} has weak typing only"
    return ""


def _distance(target: Target, device: Device, tensorrt: TensorRt) -> tuple[bool, int, int]:
    """How far a target is from this machine: another processor; this GPU, any, another; this version, near, far."""
    wanted, here = _release(target.tensorrt), _release(tensorrt.version)
    version = 0 if here[:len(wanted)] == wanted or not target.tensorrt else 1 if here[0] == wanted[0] else 2
    gpu = 1 if target.sm == "" else 0 if device.gpu is not None and target.sm == device.gpu.sm else 2
    return target.device == "dla", gpu, version


def _on_cpu(artifacts: list[Artifact], targets: Mapping[str, Target], device: Device,
            rejected: list[str]) -> list[Candidate]:
    models = [a for a in artifacts if a.kind == "onnx"]
    if not models:
        rejected.append("ONNX Runtime: no ONNX artifact was asked for or is there")
        return []
    if not device.onnxruntime:
        rejected.append("ONNX Runtime: it is not installed or does not load. Run: pip install 'trtkit[cpu]'")
        return []
    fitting = [name for name, target in targets.items() if target.runs_on(device.machine, device.cpu_flags)]
    anywhere = [name for name, target in targets.items() if target.device == "cpu"]
    first: dict[int, Candidate] = {}
    for artifact, reason in _cpu_order(models, fitting, anywhere):
        fits = artifact.target in fitting or (artifact.precision is Precision.FP32 and artifact.target in anywhere)
        first.setdefault(id(artifact), Candidate(artifact, "cpu", reason, fits, _elsewhere(artifact, device)))
    return list(first.values())


def _elsewhere(artifact: Artifact, device: Device) -> Setting | None:
    """Return the threads that were best where the bundle was made, when that was such a machine."""
    conditions = artifact.measurements.get("conditions")
    if not isinstance(conditions, Mapping) or artifact.p50_ms is None:
        return None
    threads = conditions.get("threads")
    same = (conditions.get("cpu"), conditions.get("cores")) == (device.cpu, device.cores)
    return Setting(artifact.p50_ms, threads) if same and type(threads) is int and threads > 0 else None


def _cpu_order(models: list[Artifact], fitting: list[str], anywhere: list[str]) -> Iterator[tuple[Artifact, str]]:
    """Yield artifacts, best first, each with why it stands there; one may come again further down."""
    measured = {name: _fastest_first([a for a in models if a.target == name and a.p50_ms is not None])
                for name in fitting}
    for name in fitting:
        for artifact in itertools.takewhile(lambda a: a.precision is not Precision.FP32, measured[name]):
            yield artifact, f"the fastest measured for {name}{_measured(artifact)}"
    for name in fitting:
        for artifact in measured[name]:
            yield artifact, f"the fastest measured for {name}{_measured(artifact)}"
    full = [a for a in models if a.precision is Precision.FP32]
    for name in fitting:
        for artifact in (a for a in full if a.target == name):
            narrower = any(a.target == name and a.precision is not Precision.FP32 for a in models)
            hint = " (trtkit tune does that)" if narrower else ""
            yield artifact, f"FP32 for {name}; nothing was measured on such a CPU{hint}"
    for artifact in (a for a in full if a.target in anywhere):
        yield artifact, "FP32, which any CPU computes alike"
    for name in fitting:
        for artifact in (a for a in models if a.target == name):
            yield artifact, f"made for {name}, but not measured against FP32"
    for artifact in full:
        yield artifact, "FP32, lowered for another device"
    for artifact in models:
        yield artifact, "nothing fits this CPU; this was lowered for another device and may be slow or inexact"


def _fastest_first(measured: list[Artifact]) -> list[Artifact]:
    """Sort by the ratio to FP32, which was measured in turns, where all have it; else by latency."""
    ratios = {id(a): 1.0 if a.precision is Precision.FP32 else a.measurements.get("speedup_over_fp32")
              for a in measured}
    if all(isinstance(ratio, (int, float)) for ratio in ratios.values()):
        return sorted(measured, key=lambda a: -float(ratios[id(a)] or 0.0))
    return sorted(measured, key=_by_speed)


def _by_speed(artifact: Artifact) -> tuple[float, int]:
    """Measured ones by latency, then the others, narrow formats first."""
    p50 = artifact.p50_ms
    return float("inf") if p50 is None else p50, _FASTEST_FIRST.index(artifact.precision)


def _measured(artifact: Artifact) -> str:
    return "" if artifact.p50_ms is None else f" ({artifact.p50_ms:.2f} ms)"


def _release(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit()) or (0,)
