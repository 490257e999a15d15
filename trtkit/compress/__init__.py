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
    from trtkit.compress.pruning.prune import Pruned, prune
    from trtkit.compress.pruning.report import PruneReport
    from trtkit.compress.pruning.spec import Goal, Importance, Method, PruneSpec, Ramp, Scope
    from trtkit.compress.pruning.two_four import sparsify_two_four
    from trtkit.compress.pruning.unstructured import sparsify
    from trtkit.compress.qat.spec import Scales
    from trtkit.compress.qat.torch_graph import TorchGraph
    from trtkit.compress.qat.training import QuantizationTrained, train_quantized
    from trtkit.compress.resolution import AtSize, evaluate_sizes
    from trtkit.compress.size import ModuleSize, count
    from trtkit.compress.training.loop import Fit, fit
    from trtkit.compress.training.losses import step_for
    from trtkit.compress.training.spec import Optimizer, Schedule, TrainSpec

__all__ = [
    "AtSize",
    "DistillSpec",
    "Distilled",
    "Fit",
    "Goal",
    "Hint",
    "Importance",
    "Masks",
    "MeasuredLatency",
    "Method",
    "ModuleSize",
    "Optimizer",
    "PruneReport",
    "PruneSpec",
    "Pruned",
    "QuantizationTrained",
    "Ramp",
    "Scales",
    "Schedule",
    "Scope",
    "TableLatency",
    "TorchGraph",
    "TrainSpec",
    "count",
    "distill",
    "distillation_step",
    "evaluate_sizes",
    "fit",
    "hinted",
    "make_kit",
    "prune",
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
    "Goal": "pruning.spec",
    "Hint": "distillation.spec",
    "Importance": "pruning.spec",
    "Masks": "pruning.masks",
    "MeasuredLatency": "pruning.latency",
    "Method": "pruning.spec",
    "ModuleSize": "size",
    "Optimizer": "training.spec",
    "PruneReport": "pruning.report",
    "PruneSpec": "pruning.spec",
    "Pruned": "pruning.prune",
    "QuantizationTrained": "qat.training",
    "Ramp": "pruning.spec",
    "Scales": "qat.spec",
    "Schedule": "training.spec",
    "Scope": "pruning.spec",
    "TableLatency": "pruning.latency",
    "TorchGraph": "qat.torch_graph",
    "TrainSpec": "training.spec",
    "count": "size",
    "distill": "distillation.distill",
    "distillation_step": "distillation.step",
    "evaluate_sizes": "resolution",
    "fit": "training.loop",
    "hinted": "distillation.hints",
    "make_kit": "pruning.latency_kit",
    "prune": "pruning.prune",
    "scale_config": "distillation.scaling",
    "scaled": "distillation.scaling",
    "select_weights": "distillation.scaling",
    "sparsify": "pruning.unstructured",
    "sparsify_two_four": "pruning.two_four",
    "step_for": "training.losses",
    "train_quantized": "qat.training",
}

__getattr__ = lazy_names(__name__, _HOMES)
