"""TensorRT's progress monitor -> steps done and steps known so far."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from trtkit.build.flavour import Flavour

__all__ = ["attach_monitor"]

_INTERVAL_S = 0.05


def attach_monitor(flavour: Flavour, config: Any, report: Callable[[int, int], None]) -> Any:
    """Have `report` called with steps done and steps known so far; return what must live until the build is over.

    TensorRT's phases nest, and each tells its steps only when it begins, so the total grows. TensorRT 8 has no monitor:
    then this does nothing and returns None. TensorRT calls it from several threads.
    """
    if not hasattr(config, "progress_monitor"):
        return None

    class StepCounter(flavour.trt.IProgressMonitor):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            flavour.trt.IProgressMonitor.__init__(self)
            self.lock = threading.Lock()
            self.done = self.total = 0
            self.told = 0.0

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            with self.lock:
                self.total += num_steps

        def step_complete(self, phase_name: str, step: int) -> bool:
            with self.lock:
                self.done += 1
                if time.monotonic() - self.told >= _INTERVAL_S:
                    self.told = time.monotonic()
                    report(self.done, max(self.total, self.done))
            return True

        def phase_finish(self, phase_name: str) -> None:
            pass

    config.progress_monitor = StepCounter()
    return config.progress_monitor
