"""torch -> ONNX, checked against torch: the only room that knows torch, which it loads when it is first asked to."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from trtkit._optional import require
from trtkit.export.options import Exporter, ExportOptions
from trtkit.export.report import Attempt, CaseParity, Exported, OutputParity, ParityReport

if TYPE_CHECKING:
    from trtkit.export.exporting import export_onnx
    from trtkit.export.loading import load_module
    from trtkit.export.saving import save_checkpoint

__all__ = [
    "Attempt",
    "CaseParity",
    "ExportOptions",
    "Exported",
    "Exporter",
    "OutputParity",
    "ParityReport",
    "export_onnx",
    "load_module",
    "save_checkpoint",
]

_NEEDING_TORCH = {"export_onnx": "trtkit.export.exporting", "load_module": "trtkit.export.loading",
                  "save_checkpoint": "trtkit.export.saving"}


def __getattr__(name: str) -> Any:
    if name not in _NEEDING_TORCH:
        raise AttributeError(f"module 'trtkit.export' has no attribute '{name}'")
    for module in ("torch", "onnx", "onnxruntime"):
        require(module, extra="export", feature="Export")
    return getattr(importlib.import_module(_NEEDING_TORCH[name]), name)
