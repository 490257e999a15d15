"""ONNX models in memory: read, write, run, and rewrite by named passes, each checked numerically.

Nothing heavy is imported before a name is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trtkit._lazy import lazy_names

if TYPE_CHECKING:
    from trtkit.graph.content_hash import fingerprint
    from trtkit.graph.model import load_model, model_bytes, model_inputs, model_outputs, save_model
    from trtkit.graph.opset import upgrade_opset
    from trtkit.graph.passes.embed import embed_preprocess
    from trtkit.graph.presets import preset
    from trtkit.graph.readiness import made_ready, why_not_ready
    from trtkit.graph.registry import PASSES, parse_pass
    from trtkit.graph.rewriting import Rewritten, rewrite
    from trtkit.graph.rule import Pass, PassResult
    from trtkit.graph.run import random_feeds, run_model
    from trtkit.graph.shapes import infer_shapes
    from trtkit.graph.sparsity import LayerSparsity, check_two_four, layer_sparsity

__all__ = [
    "PASSES",
    "LayerSparsity",
    "Pass",
    "PassResult",
    "Rewritten",
    "check_two_four",
    "embed_preprocess",
    "fingerprint",
    "infer_shapes",
    "layer_sparsity",
    "load_model",
    "made_ready",
    "model_bytes",
    "model_inputs",
    "model_outputs",
    "parse_pass",
    "preset",
    "random_feeds",
    "rewrite",
    "run_model",
    "save_model",
    "upgrade_opset",
    "why_not_ready",
]

_HOMES = {
    "LayerSparsity": "sparsity",
    "PASSES": "registry",
    "Pass": "rule",
    "PassResult": "rule",
    "Rewritten": "rewriting",
    "check_two_four": "sparsity",
    "embed_preprocess": "passes.embed",
    "fingerprint": "content_hash",
    "infer_shapes": "shapes",
    "layer_sparsity": "sparsity",
    "load_model": "model",
    "made_ready": "readiness",
    "model_bytes": "model",
    "model_inputs": "model",
    "model_outputs": "model",
    "parse_pass": "registry",
    "preset": "presets",
    "random_feeds": "run",
    "rewrite": "rewriting",
    "run_model": "run",
    "save_model": "model",
    "upgrade_opset": "opset",
    "why_not_ready": "readiness",
}

__getattr__ = lazy_names(__name__, _HOMES)
