"""A torch module -> a smaller one at a known accuracy: pruned, sparse, distilled, trained for its integer grids.

Nothing heavy is imported before a name is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trtkit._lazy import lazy_names

if TYPE_CHECKING:
    from trtkit.compress.pruning.masks import Masks
    from trtkit.compress.pruning.two_four import sparsify_two_four
    from trtkit.compress.pruning.unstructured import sparsify
    from trtkit.compress.training.loop import Fit, fit
    from trtkit.compress.training.losses import step_for
    from trtkit.compress.training.spec import Optimizer, Schedule, TrainSpec

__all__ = [
    "Fit",
    "Masks",
    "Optimizer",
    "Schedule",
    "TrainSpec",
    "fit",
    "sparsify",
    "sparsify_two_four",
    "step_for",
]

_HOMES = {
    "Fit": "training.loop",
    "Masks": "pruning.masks",
    "Optimizer": "training.spec",
    "Schedule": "training.spec",
    "TrainSpec": "training.spec",
    "fit": "training.loop",
    "sparsify": "pruning.unstructured",
    "sparsify_two_four": "pruning.two_four",
    "step_for": "training.losses",
}

__getattr__ = lazy_names(__name__, _HOMES)
