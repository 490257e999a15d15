"""This machine -> Device: what the kernel, the driver and the installed packages say."""

from __future__ import annotations

import logging
import os
import platform
import re
from dataclasses import dataclass
from pathlib import Path

from trtkit._optional import require
from trtkit.device import Device, TensorRt
from trtkit.errors import MissingDependencyError
from trtkit.runtime.cuda import probe_gpu
from trtkit.runtime.jetpack import find_jetpack, parse_l4t

__all__ = ["Probe", "physical_cores", "probe", "probe_device", "read_cpu", "usable_cores"]

logger = logging.getLogger(__name__)

_TENSORRT_MODULES = {"tensorrt": "trt", "tensorrt_rtx": "rtx"}


@dataclass(frozen=True)
class Probe:
    """What was found, and what is there but does not work.

    Attributes:
        device: The machine.
        problems: Message of each package that is installed and broken, by its name.
        absent: Names of the packages that are not installed.
    """

    device: Device
    problems: dict[str, str]
    absent: tuple[str, ...]


def probe_device(root: Path = Path("/")) -> Device:
    """Return this machine; a package that is installed but broken is logged as a warning.

    Args:
        root: Where /proc and /etc are looked for.
    """
    found = probe(root)
    for name, problem in found.problems.items():
        logger.warning("%s cannot be used: %s", name, problem)
    return found.device


def probe(root: Path = Path("/")) -> Probe:
    """Return this machine together with what is broken on it. Creates no CUDA context.

    Args:
        root: Where /proc and /etc are looked for.
    """
    problems: dict[str, str] = {}
    absent: list[str] = []
    cpu, flags = read_cpu(root)
    l4t = parse_l4t(_text(root / "etc/nv_tegra_release"))
    jetpack = find_jetpack(l4t) if l4t else None
    found = [TensorRt(module, version) for module, extra in _TENSORRT_MODULES.items()
             if (version := _version(module, extra, problems, absent))]
    device = Device(
        machine=platform.machine(),
        system=platform.system(),
        cpu=cpu,
        cpu_flags=flags,
        cores=usable_cores(),
        memory_bytes=_memory_bytes(_text(root / "proc/meminfo")),
        board=_text(root / "proc/device-tree/model").strip("\0 \n"),
        l4t=l4t,
        jetpack=jetpack.name if jetpack else "",
        gpu=probe_gpu(),
        tensorrt=found[0] if found else None,
        onnxruntime=_version("onnxruntime", "cpu", problems, absent),
    )
    return Probe(device, problems, tuple(absent))


def usable_cores() -> int:
    """Return how many CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def physical_cores(root: Path = Path("/")) -> int:
    """Return how many different cores this process may use: threads that share one count once."""
    usable = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
    siblings = {_text(root / f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list").strip() or str(cpu)
                for cpu in usable}
    return len(siblings)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def read_cpu(root: Path = Path("/")) -> tuple[str, frozenset[str]]:
    """Return model name and features; x86 calls them "model name" and "flags", Arm "Features" (and often no name)."""
    fields: dict[str, str] = {}
    for line in _text(root / "proc/cpuinfo").splitlines():
        key, colon, value = line.partition(":")
        if colon:
            fields.setdefault(key.strip().lower(), value.strip())
    name = fields.get("model name") or fields.get("model") or platform.processor() or platform.machine()
    return name, frozenset((fields.get("flags") or fields.get("features") or "").split())


def _memory_bytes(meminfo: str) -> int:
    match = re.search(r"^MemTotal:\s*(\d+) kB", meminfo, re.MULTILINE)
    return int(match[1]) * 1024 if match else 0


def _version(module: str, extra: str, problems: dict[str, str], absent: list[str]) -> str:
    try:
        return str(require(module, extra=extra).__version__)
    except MissingDependencyError as err:
        if "is not installed" in str(err):
            absent.append(module)
        else:
            problems[module] = str(err)
    except (OSError, AttributeError, RuntimeError) as err:  # a missing system library, or half of a package
        problems[module] = f"{module} is installed but does not load: {err}"
    return ""
