"""Data + FP32 model -> calibration table, in one sweep; and a look at both before anything is quantized.

Nothing heavy is imported before a name is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trtkit._lazy import lazy_names

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

__getattr__ = lazy_names(__name__, _HOMES)
