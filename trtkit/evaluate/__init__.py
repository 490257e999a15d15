"""How good is a model on data, and how far is one model from another: outputs, layers, task metrics.

Nothing heavy is imported before a name is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trtkit.evaluate.accuracy import Accuracy, Task, evaluate
    from trtkit.evaluate.comparison import Comparison, compare
    from trtkit.evaluate.difference import Difference, DifferenceSum
    from trtkit.evaluate.source import open_model

__all__ = ["Accuracy", "Comparison", "Difference", "DifferenceSum", "Task", "compare", "evaluate", "open_model"]

_HOMES = {
    "Accuracy": "accuracy",
    "Comparison": "comparison",
    "Difference": "difference",
    "DifferenceSum": "difference",
    "Task": "accuracy",
    "compare": "comparison",
    "evaluate": "accuracy",
    "open_model": "source",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'trtkit.evaluate' has no attribute '{name}'")
    return getattr(importlib.import_module(f"trtkit.evaluate.{_HOMES[name]}"), name)
