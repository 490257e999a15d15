"""What was measured on this very machine, kept beside the plans: it decides where a bundle's own numbers cannot.

A bundle packed on a PC knows nothing of how fast INT8 is on the board, or with how many threads; `trtkit tune` finds
out there.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from trtkit.bundle.manifest import Artifact
from trtkit.device import Device
from trtkit.errors import SpecError
from trtkit.files import atomic_write
from trtkit.runtime.plan_cache import default_cache_dir

__all__ = ["MeasuredHere", "Setting", "setting_key"]

logger = logging.getLogger(__name__)

_FORMAT = 1


@dataclass(frozen=True)
class Setting:
    """How an artifact runs best on this machine.

    Attributes:
        p50_ms: Median latency in milliseconds; None when it does not run here.
        threads: Of ONNX Runtime; None for its own choice, and for TensorRT.
        spinning: Whether ONNX Runtime's idle threads wait busily.
    """

    p50_ms: float | None
    threads: int | None = None
    spinning: bool = True

    def __str__(self) -> str:
        if self.threads is None:
            return ""
        threads = "1 thread" if self.threads == 1 else f"{self.threads} threads"
        return threads if self.spinning else f"{threads}, no spinning"


def setting_key(artifact: Artifact, device: str) -> str:
    """Return what a measurement belongs to: a file's content, its precision (weak typing builds several of one file),
    and "cpu" or "cuda"."""
    return f"{artifact.sha256} {artifact.precision.value} {device}"


class MeasuredHere:
    """Settings by artifact, for one machine and its runtimes.

    Args:
        device: The machine; another CPU, number of cores, GPU, ONNX Runtime or TensorRT has numbers of its own.
        folder: Made when something is remembered; the user's cache folder when None.
    """

    def __init__(self, device: Device, folder: Path | None = None) -> None:
        gpu, tensorrt = device.gpu, device.tensorrt
        facts = [device.machine, device.cpu, sorted(device.cpu_flags), device.cores, device.onnxruntime,
                 gpu and [gpu.name, gpu.sm, gpu.driver], tensorrt and [tensorrt.module, tensorrt.version]]
        key = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]
        self.path = (folder or default_cache_dir()) / f"measured-{key}.json"

    def load(self) -> dict[str, Setting]:
        """Return settings by `setting_key`; empty when there are none that can be read."""
        if not self.path.exists():
            return {}
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
            if content["format"] != _FORMAT:
                raise ValueError(f"format {content['format']!r} instead of {_FORMAT}")
            return {str(key): _setting(row) for key, row in content["artifacts"].items()}
        except (OSError, ValueError, TypeError, AttributeError, KeyError) as err:
            logger.warning("'%s' cannot be used and is ignored: %s. Measure again: trtkit tune BUNDLE", self.path, err)
            return {}

    def remember(self, settings: Mapping[str, Setting]) -> None:
        """Add settings to those that are kept.

        Raises:
            SpecError: The folder cannot be written.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as err:
            raise SpecError(f"'{self.path.parent}' cannot be made: {err.strerror}. "
                            "Set XDG_CACHE_HOME to a folder that is writable") from err
        kept = {key: asdict(setting) for key, setting in {**self.load(), **settings}.items()}
        content = {"format": _FORMAT, "artifacts": kept}
        atomic_write(self.path, (json.dumps(content, indent=2, sort_keys=True) + "\n").encode())


def _setting(row: Mapping[str, Any]) -> Setting:
    p50_ms, threads = row["p50_ms"], row["threads"]
    if not (p50_ms is None or (isinstance(p50_ms, (int, float)) and math.isfinite(p50_ms) and p50_ms > 0)):
        raise ValueError(f"a latency of {p50_ms!r}")
    if not (threads is None or (type(threads) is int and threads > 0)):
        raise ValueError(f"{threads!r} threads")
    return Setting(p50_ms, threads, bool(row["spinning"]))
