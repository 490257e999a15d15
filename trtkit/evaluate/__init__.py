"""How good is a model on data, and how far is one model from another: outputs, layers, task metrics.

Nothing heavy is imported before a name is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trtkit._lazy import lazy_names

if TYPE_CHECKING:
    from trtkit.evaluate.accuracy import Accuracy, Task, evaluate
    from trtkit.evaluate.comparison import Comparison, compare
    from trtkit.evaluate.difference import Difference, DifferenceSum
    from trtkit.evaluate.loss import Judge, Loss, loss_of
    from trtkit.evaluate.source import open_model

__all__ = ["Accuracy", "Comparison", "Difference", "DifferenceSum", "Judge", "Loss", "Task", "compare", "evaluate",
           "loss_of", "open_model"]

_HOMES = {
    "Accuracy": "accuracy",
    "Comparison": "comparison",
    "Difference": "difference",
    "DifferenceSum": "difference",
    "Judge": "loss",
    "Loss": "loss",
    "Task": "accuracy",
    "compare": "comparison",
    "evaluate": "accuracy",
    "loss_of": "loss",
    "open_model": "source",
}

__getattr__ = lazy_names(__name__, _HOMES)
