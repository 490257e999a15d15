"""A torch module -> a smaller one at a known accuracy: pruned, sparse, distilled, trained for its integer grids.

Nothing heavy is imported before a name is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trtkit._lazy import lazy_names

if TYPE_CHECKING:
    from trtkit.compress.distillation.distill import Distilled, distill
    from trtkit.compress.distillation.hints import hinted
    from trtkit.compress.distillation.scaling import scale_config, scaled, select_weights
    from trtkit.compress.distillation.spec import DistillSpec, Hint
    from trtkit.compress.distillation.step import distillation_step
    from trtkit.compress.pruning.latency import MeasuredLatency, TableLatency
    from trtkit.compress.pruning.latency_kit import make_kit
    from trtkit.compress.pruning.masks import Masks
    from trtkit.compress.pruning.two_four import sparsify_two_four
    from trtkit.compress.pruning.unstructured import sparsify
    from trtkit.compress.qat.spec import Scales
    from trtkit.compress.qat.torch_graph import TorchGraph
    from trtkit.compress.qat.training import QuantizationTrained, train_quantized
    from trtkit.compress.resolution import AtSize, evaluate_sizes
    from trtkit.compress.training.loop import Fit, fit
    from trtkit.compress.training.losses import step_for
    from trtkit.compress.training.spec import Optimizer, Schedule, TrainSpec

__all__ = [
    "AtSize",
    "DistillSpec",
    "Distilled",
    "Fit",
    "Hint",
    "Masks",
    "MeasuredLatency",
    "Optimizer",
    "QuantizationTrained",
    "Scales",
    "Schedule",
    "TableLatency",
    "TorchGraph",
    "TrainSpec",
    "distill",
    "distillation_step",
    "evaluate_sizes",
    "fit",
    "hinted",
    "make_kit",
    "scale_config",
    "scaled",
    "select_weights",
    "sparsify",
    "sparsify_two_four",
    "step_for",
    "train_quantized",
]

_HOMES = {
    "AtSize": "resolution",
    "DistillSpec": "distillation.spec",
    "Distilled": "distillation.distill",
    "Fit": "training.loop",
    "Hint": "distillation.spec",
    "Masks": "pruning.masks",
    "MeasuredLatency": "pruning.latency",
    "Optimizer": "training.spec",
    "QuantizationTrained": "qat.training",
    "Scales": "qat.spec",
    "Schedule": "training.spec",
    "TableLatency": "pruning.latency",
    "TorchGraph": "qat.torch_graph",
    "TrainSpec": "training.spec",
    "distill": "distillation.distill",
    "distillation_step": "distillation.step",
    "evaluate_sizes": "resolution",
    "fit": "training.loop",
    "hinted": "distillation.hints",
    "make_kit": "pruning.latency_kit",
    "scale_config": "distillation.scaling",
    "scaled": "distillation.scaling",
    "select_weights": "distillation.scaling",
    "sparsify": "pruning.unstructured",
    "sparsify_two_four": "pruning.two_four",
    "step_for": "training.losses",
    "train_quantized": "qat.training",
}

__getattr__ = lazy_names(__name__, _HOMES)
