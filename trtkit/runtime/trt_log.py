"""TensorRT's log as data: one capturing logger for the process, since TensorRT keeps the first that it is given."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Any

__all__ = ["LogLine", "TrtLog", "capture_log", "is_noise"]

logger = logging.getLogger(__name__)

KEPT_LINES = 4000
_LEVELS = {"INTERNAL_ERROR": logging.ERROR, "ERROR": logging.ERROR, "WARNING": logging.WARNING, "INFO": logging.DEBUG}
_FAULTS = ("INTERNAL_ERROR", "ERROR")


@dataclass(frozen=True)
class LogLine:
    """One message of TensorRT.

    Attributes:
        severity: "INTERNAL_ERROR", "ERROR", "WARNING" or "INFO".
        text: What it says.
    """

    severity: str
    text: str

    @property
    def is_error(self) -> bool:
        """Whether it tells of a failure."""
        return self.severity in _FAULTS


class TrtLog:
    """The last lines that TensorRT logged, without VERBOSE and without the noise of a machine that has no GPU."""

    def __init__(self) -> None:
        self.lines: deque[LogLine] = deque(maxlen=KEPT_LINES)
        self.count = 0
        self.listener: Callable[[LogLine], None] | None = None

    def add(self, severity: str, text: str) -> None:
        """Keep one line and pass it on to the listener, or to Python's logging when there is none."""
        if severity not in _LEVELS or is_noise(text):
            return
        line = LogLine(severity, text.strip())
        self.lines.append(line)
        self.count += 1
        if self.listener is not None:
            self.listener(line)
        else:
            logger.log(_LEVELS[severity], "TensorRT: %s", line.text)

    def errors(self, since: int = 0) -> tuple[str, ...]:
        """Return the error messages logged after the first `since` lines; read `count` for a mark."""
        fresh = min(self.count - since, len(self.lines))
        return tuple(line.text for line in list(self.lines)[len(self.lines) - fresh:] if line.is_error)

    def tail(self, since: int = 0, limit: int = 8) -> str:
        """Return the last error messages as one text, or a remark that TensorRT gave no reason."""
        return " | ".join(self.errors(since)[-limit:]) or "TensorRT gave no reason"


def is_noise(text: str) -> bool:
    """Whether this line only says that there is no GPU (35: no driver); it follows every API error where there is "
      "none."""
    return "catchCudaError" in text and "cudaError 35" in text


@cache
def capture_log(trt: ModuleType) -> tuple[TrtLog, Any]:
    """Return the log of the process and the tensorrt.ILogger that fills it, the same for every call.

    Args:
        trt: The imported tensorrt or tensorrt_rtx module.
    """
    log = TrtLog()

    class CapturingLogger(trt.ILogger):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, msg: str) -> None:
            log.add(severity.name, msg)

    return log, CapturingLogger()
