"""What a measurement depends on besides the model, read from the running system without changing it."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path
from typing import Any

import numpy as np

from trtkit._version import __version__
from trtkit.runtime.probe import read_cpu, usable_cores

__all__ = ["conditions", "peak_memory_bytes"]

_GOVERNOR = "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"
_JETSON_POWER_MODE = "var/lib/nvpmodel/status"


def conditions(backend: str, root: Path = Path("/")) -> dict[str, Any]:
    """Return a JSON-able description of the circumstances of a measurement.

    Args:
        backend: Of the session, with its version.
        root: Where /proc and /sys are looked for.
    """
    facts: dict[str, Any] = {
        "backend": backend,
        "cpu": read_cpu(root)[0],
        "machine": platform.machine(),
        "cores": usable_cores(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "trtkit": __version__,
        "governor": _line(root / _GOVERNOR),
        "power_mode": _line(root / _JETSON_POWER_MODE),
        "load": round(os.getloadavg()[0], 2),
    }
    return {key: value for key, value in facts.items() if value != ""}


def peak_memory_bytes() -> int:
    """Return the most memory that this process ever had resident."""
    match = re.search(r"^VmHWM:\s*(\d+) kB", _text(Path("/proc/self/status")), re.MULTILINE)
    if match:
        return int(match[1]) * 1024
    import resource  # not on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if platform.system() == "Darwin" else peak * 1024


def _line(path: Path) -> str:
    return _text(path).strip().partition("\n")[0]


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
