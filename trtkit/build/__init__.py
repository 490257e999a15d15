"""ONNX bytes -> TensorRT plan, always in a child process: TensorRT may abort, and then only the child is gone."""

from __future__ import annotations

from trtkit.build.child import build_plan
from trtkit.build.options import BuildOptions
from trtkit.build.plan import Plan

__all__ = ["BuildOptions", "Plan", "build_plan"]
