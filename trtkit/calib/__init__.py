"""Data + FP32 model -> calibration table, in one sweep; and a look at both before anything is quantized.

Nothing heavy is imported before a name is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trtkit.calib.auditing import Finding, Severity, audit
    from trtkit.calib.sample import DataSource, Sample
    from trtkit.calib.sources import open_data
    from trtkit.calib.sweep import calibrate

__all__ = ["DataSource", "Finding", "Sample", "Severity", "audit", "calibrate", "open_data"]

_HOMES = {
    "DataSource": "sample",
    "Finding": "auditing",
    "Sample": "sample",
    "Severity": "auditing",
    "audit": "auditing",
    "calibrate": "sweep",
    "open_data": "sources",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'trtkit.calib' has no attribute '{name}'")
    value = getattr(importlib.import_module(f"trtkit.calib.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
