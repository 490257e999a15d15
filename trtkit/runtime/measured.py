"""Latencies that were measured on this very machine, kept beside the plans: they decide where a bundle's cannot.

A bundle packed on a PC knows nothing of how fast INT8 is on the board; `trtkit bench --all --remember` finds out there.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path

from trtkit.device import Device
from trtkit.errors import SpecError
from trtkit.files import atomic_write
from trtkit.runtime.plan_cache import default_cache_dir

__all__ = ["MeasuredHere"]

logger = logging.getLogger(__name__)


class MeasuredHere:
    """Median latencies by the hash of the artifact's file, for one CPU and one ONNX Runtime.

    Args:
        device: The machine; another CPU, number of cores or ONNX Runtime has numbers of its own.
        folder: Made when something is remembered; the user's cache folder when None.
    """

    def __init__(self, device: Device, folder: Path | None = None) -> None:
        facts = [device.machine, device.cpu, sorted(device.cpu_flags), device.cores, device.onnxruntime]
        key = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]
        self.path = (folder or default_cache_dir()) / f"measured-{key}.json"

    def load(self) -> dict[str, float]:
        """Return median latencies in milliseconds by SHA-256; empty when there are none that can be read."""
        if not self.path.exists():
            return {}
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
            return {str(sha256): float(p50_ms) for sha256, p50_ms in content.items()}
        except (OSError, ValueError, TypeError, AttributeError) as err:
            logger.warning("'%s' cannot be used and is ignored: %s. Measure again: trtkit bench --all --remember",
                           self.path, err)
            return {}

    def remember(self, p50_ms: Mapping[str, float]) -> None:
        """Add latencies to those that are kept.

        Raises:
            SpecError: The folder cannot be written.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as err:
            raise SpecError(f"'{self.path.parent}' cannot be made: {err.strerror}. "
                            "Set XDG_CACHE_HOME to a folder that is writable") from err
        kept = {**self.load(), **p50_ms}
        atomic_write(self.path, (json.dumps(kept, indent=2, sort_keys=True) + "\n").encode())
