"""A target -> the passes that suit it, in order."""

from __future__ import annotations

from trtkit.target import Target

__all__ = ["COMMON", "preset"]

_CLEAN = ("fold-constants", "remove-identities", "remove-dropout", "remove-empty-masks", "unflatten-transposes",
          "remove-noops")
_FOLD = ("fold-batchnorm", "fold-pad")
_FUSE = ("fuse-layernorm", "fuse-gelu", "fuse-hardswish", "fuse-silu", "fuse-global-pool", "merge-attention-scale")
_SPLIT = {"fuse-layernorm": "split-layernorm"}
"""What takes a pass's place where the runtime has no such layer."""

COMMON = ("raise-opset:17", *_CLEAN, *_FOLD, *_FUSE, "fold-affine", "merge-initializers")
"""Passes that suit every runtime, for what is not said to be for one."""


def preset(target: Target) -> tuple[str, ...]:
    """Return the names of the passes that a model for `target` runs through, in order.

    All targets: the target's opset, constants, no-ops, BatchNorm and Pad, canonical forms (LayerNormalization where the
    runtime has a layer for it: TensorRT from 8.6), scales and shifts beside convolutions, equal initializers.
    TensorRT 8.x also: int64 to int32.
    """
    fuse = tuple(_SPLIT.get(name, name) for name in _FUSE) if _lacks_layernorm(target) else _FUSE
    narrow = ("int64-to-int32",) if _major(target) == 8 else ()
    return (f"raise-opset:{target.opset}", *_CLEAN, *_FOLD, *fuse, "fold-affine", "merge-initializers", *narrow)


def _major(target: Target) -> int:
    return int(target.tensorrt.split(".")[0]) if target.tensorrt else 0


def _lacks_layernorm(target: Target) -> bool:
    """TensorRT's ONNX parser knows LayerNormalization from 8.6 on (INormalizationLayer)."""
    parts = [int(part) for part in target.tensorrt.split(".")[:2]] if target.tensorrt else [99]
    return target.is_tensorrt and parts < [8, 6]
