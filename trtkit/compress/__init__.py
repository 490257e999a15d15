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

__all__ = ["Masks", "sparsify", "sparsify_two_four"]

_HOMES = {
    "Masks": "pruning.masks",
    "sparsify": "pruning.unstructured",
    "sparsify_two_four": "pruning.two_four",
}

__getattr__ = lazy_names(__name__, _HOMES)
