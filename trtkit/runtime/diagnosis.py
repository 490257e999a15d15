"""What this machine has -> what works with it, what does not, and the command that changes that."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

from trtkit.device import Device, TensorRt
from trtkit.runtime.jetpack import find_jetpack
from trtkit.runtime.probe import Probe
from trtkit.target import load_targets

__all__ = ["Finding", "diagnose", "installed_packages"]

_PACKAGES = ("pycuda", "onnx", "onnx-graphsurgeon", "polygraphy", "torch", "onnxscript", "safetensors", "pillow",
             "opencv-python-headless")
_SYSTEM_TENSORRT = "usr/lib/python3*/dist-packages/tensorrt"
_NUMPY_2_SAFE = (10, 16)


@dataclass(frozen=True)
class Finding:
    """One line of the diagnosis.

    Attributes:
        topic: What it is about.
        found: What there is.
        ok: Whether that works; None for a plain fact.
        remedy: What to run where it does not.
    """

    topic: str
    found: str
    ok: bool | None = None
    remedy: str = ""


def installed_packages() -> dict[str, str]:
    """Return the versions of the optional packages that are installed; nothing is imported."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def diagnose(probe: Probe, packages: dict[str, str], root: Path = Path("/")) -> tuple[Finding, ...]:
    """Return facts first, then what each part of trtkit can do here.

    Args:
        probe: This machine.
        packages: Version of each optional package that is installed.
        root: Where the system's own Python packages are looked for.
    """
    return (*_facts(probe.device), *_runtimes(probe, packages, root), *_work(probe, packages))


def _facts(device: Device) -> Iterator[Finding]:
    cpu = f"{device.cpu}, {device.cores} cores, {device.memory_bytes / 2**30:.1f} GiB"
    yield Finding("Machine", f"{device.board + ', ' if device.board else ''}{device.system} {device.machine}")
    yield Finding("CPU", cpu)
    fitting = [t.name for t in load_targets().values() if t.runs_on(device.machine, device.cpu_flags)]
    yield Finding("CPU targets", ", ".join(fitting) or "none: INT8 has no fast kernels on this CPU, use FP32")
    if device.l4t:
        yield _jetpack(device)
    gpu = device.gpu
    yield Finding("GPU", f"{gpu.name}, SM {gpu.sm}, {gpu.memory_bytes / 2**30:.1f} GiB, driver for CUDA {gpu.driver}"
                  if gpu else "none that the NVIDIA driver knows")
    python = ".".join(map(str, sys.version_info[:3]))
    yield Finding("Python", f"{python}, numpy {np.__version__}")


def _jetpack(device: Device) -> Finding:
    row = find_jetpack(device.l4t)
    if row is None:
        return Finding("JetPack", f"Jetson Linux {device.l4t}, which this trtkit does not know")
    brings = f"CUDA {row.cuda}, TensorRT {row.tensorrt}, {'a DLA where the board has one' if row.has_dla else 'no DLA'}"
    return Finding("JetPack", f"{row.name} (Jetson Linux {device.l4t}), which brings {brings}")


def _runtimes(probe: Probe, packages: dict[str, str], root: Path) -> Iterator[Finding]:
    device = probe.device
    yield Finding("ONNX Runtime", device.onnxruntime or probe.problems.get("onnxruntime", "not installed"),
                  bool(device.onnxruntime), "pip install 'trtkit[cpu]'")
    yield _tensorrt(probe, root)
    for module in ("tensorrt", "tensorrt_rtx"):
        if module in probe.problems and device.tensorrt is not None:
            yield Finding(module, probe.problems[module], False, f"pip uninstall {module}  (or install what it names)")
    if device.tensorrt and _misreads_numpy_2(device.tensorrt) and int(np.__version__.split(".")[0]) >= 2:
        text = (f"numpy {np.__version__} with TensorRT {device.tensorrt.version}: arrays that come out of TensorRT "
                "before 10.16 are silently wrong")
        yield Finding("numpy", text, False, "pip install 'numpy<2'")
    if device.gpu:
        yield Finding("pycuda", packages.get("pycuda", "not installed"), "pycuda" in packages,
                      "pip install 'trtkit[trt]'  (compiles on the board, needs nvcc in PATH)")


def _tensorrt(probe: Probe, root: Path) -> Finding:
    device = probe.device
    if device.tensorrt:
        return Finding("TensorRT", f"{device.tensorrt.module} {device.tensorrt.version}", True)
    if "tensorrt" in probe.problems or "tensorrt_rtx" in probe.problems:
        text = probe.problems.get("tensorrt") or probe.problems["tensorrt_rtx"]
        remedy = "install the system library that it names; a container's JetPack must be that of the board"
        return Finding("TensorRT", text, False, remedy)
    pattern = Path(_SYSTEM_TENSORRT)
    if device.l4t and any(root.glob(str(pattern))) and sys.prefix != sys.base_prefix:
        return Finding("TensorRT", "JetPack's own is installed, this virtual environment does not see it", False,
                       "python3 -m venv --system-site-packages .venv")
    if device.l4t:
        return Finding("TensorRT", "not installed", False, "sudo apt-get install python3-libnvinfer-dev")
    return Finding("TensorRT", "not installed", False, "pip install 'trtkit[rtx]'")


def _misreads_numpy_2(tensorrt: TensorRt) -> bool:
    release = tuple(int(part) for part in tensorrt.version.split(".")[:2] if part.isdigit())
    return tensorrt.module == "tensorrt" and release < _NUMPY_2_SAFE


def _work(probe: Probe, packages: dict[str, str]) -> Iterator[Finding]:
    device = probe.device

    def needs(topic: str, wanted: tuple[str, ...], remedy: str) -> Finding:
        missing = [name for name in wanted if name not in packages]
        return Finding(topic, f"lacks {', '.join(missing)}" if missing else "works", not missing, remedy)

    yield Finding("Run on the CPU", "works" if device.onnxruntime else "lacks onnxruntime", bool(device.onnxruntime),
                  "pip install 'trtkit[cpu]'")
    lacks = [what for what, there in (("an NVIDIA GPU", device.gpu), ("TensorRT", device.tensorrt),
                                      ("pycuda", "pycuda" in packages)) if not there]
    yield Finding("Run on the GPU", f"lacks {', '.join(lacks)}" if lacks else "works", not lacks,
                  "do what the lines above say" if device.gpu else "needs an NVIDIA GPU and its driver")
    can_build = device.tensorrt is not None and (device.gpu is not None or device.tensorrt.module == "tensorrt_rtx")
    yield Finding("Build plans", "works" if can_build else "lacks TensorRT with a GPU, or TensorRT-RTX", can_build,
                  "pip install 'trtkit[rtx]'")
    yield needs("Rewrite, calibrate, quantize", ("onnx", "onnx-graphsurgeon"), "pip install 'trtkit[onnx]'")
    yield needs("Export from torch", ("torch", "onnx", "onnxscript"), "pip install 'trtkit[export]'")
    yield needs("Read pictures", ("pillow",), "pip install 'trtkit[images]'")
    yield needs("Read videos", ("opencv-python-headless",), "pip install 'trtkit[video]'")
