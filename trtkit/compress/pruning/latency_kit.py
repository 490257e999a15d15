"""A module -> a latency kit: its kinds of layers at several widths, lowered for a target, for a board to measure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import torch

from trtkit.calib import DataSource
from trtkit.compress.pruning.layers import LayerShape, find_layers
from trtkit.compress.pruning.lowering import example_feeds, lowered_for, rewritten_for
from trtkit.compress.pruning.probes import probe
from trtkit.errors import SpecError
from trtkit.export.inputs import Example
from trtkit.graph import model_inputs
from trtkit.precision import Precision
from trtkit.progress import Progress, silent
from trtkit.quant.lower import Lowered
from trtkit.runtime.bench import random_feeds
from trtkit.runtime.latency_kit import MODEL, KitLayer, LatencyKit, write_kit
from trtkit.target import Target

__all__ = ["make_kit"]

_NARROWEST = 4
"""The narrowest width is this fraction of the narrowest in the model."""


def make_kit(module: torch.nn.Module, example: Example, target: Target, precision: Precision, path: Path, *,
             widths: int = 4, samples: DataSource | None = None, progress: Progress = silent) -> LatencyKit:
    """Write a kit that records what a module's layers cost on `target`, from a quarter of their channels to all.

    Args:
        module: Before it is pruned.
        example: As export_onnx takes it.
        target, precision: What will run it.
        path: File to write.
        widths: Input and output widths at which each kind of layer is measured: about `widths`**2 models a kind.
        samples: What calibrates the whole model; the example when None.
        progress: Told of every model.

    Raises:
        ExportError: The module cannot be exported.
        SpecError: The target does not run the precision, the module has no layers with weights, widths is below 2, or
            the kit cannot be written.
    """
    if widths < 2:
        raise SpecError(f"widths is {widths}. Give at least 2, or latencies between two widths are not known")
    target.check(precision)
    model = rewritten_for(module, example, target)
    layers = find_layers(model)
    if not layers:
        raise SpecError(f"{type(module).__name__} has no convolution or linear layer, so there is nothing to prune or "
                        "to measure. Use: trtkit bench")
    grid = _grid(layers, widths, target.channel_multiple(precision))
    rows: list[KitLayer] = []
    bases: dict[bytes, tuple[str, LayerShape]] = {}
    for number, layer in enumerate(grid):
        without = _probe(layer, target, with_layer=False).SerializeToString()
        base, _ = bases.setdefault(without, (f"base-{len(bases)}", layer))
        rows.append(KitLayer(layer.point, f"layer-{number}", base))

    def models() -> Iterator[tuple[str, bytes, bytes | None]]:
        whole = lowered_for(model, target, precision, example_feeds(module, example), samples)
        yield MODEL, whole.model, whole.cache
        total = len(bases) + len(grid)
        wanted = [(name, layer, False) for name, layer in bases.values()]
        wanted += [(row.model, layer, True) for row, layer in zip(rows, grid)]
        for done, (name, layer, with_layer) in enumerate(wanted):
            progress("Lowering layers", done, total)
            lowered = _lowered_probe(layer, target, precision, with_layer=with_layer)
            yield name, lowered.model, lowered.cache
        progress("Lowering layers", total, total)

    return write_kit(path, target, precision, layers=rows, whole=[layer.point for layer in layers], models=models())


def _probe(layer: LayerShape, target: Target, *, with_layer: bool) -> onnx.ModelProto:
    return probe(layer, with_layer=with_layer, opset=target.opset)


def _lowered_probe(layer: LayerShape, target: Target, precision: Precision, *, with_layer: bool) -> Lowered:
    """Return a probe as the target runs it; on a CPU dynamic INT8 and INT4 leave convolutions in FP32."""
    linear_only = precision in (Precision.INT8_DYNAMIC, Precision.INT4) and not target.is_tensorrt
    in_float = linear_only and layer.is_convolution
    model = _probe(layer, target, with_layer=with_layer)
    return lowered_for(model, target, Precision.FP32 if in_float else precision, random_feeds(model_inputs(model)))


def _grid(layers: Sequence[LayerShape], widths: int, multiple: int) -> list[LayerShape]:
    """Return every kind of layer at every pair of widths, each once."""
    kinds: dict[str, list[LayerShape]] = {}
    for layer in layers:
        kinds.setdefault(layer.point.kind, []).append(layer)
    grid: list[LayerShape] = []
    for same in kinds.values():
        first, step = same[0], math.lcm(multiple, max(same[0].groups, 1))
        present = [layer.inputs for layer in same]
        inputs = sorted(set(present)) if first.first else _levels(present, widths, step)
        outputs = _levels([layer.outputs for layer in same], widths, step)
        pairs = [(width, width) for width in inputs] if first.groups == 0 else [(i, o) for i in inputs for o in outputs]
        grid += [replace(first, inputs=i, outputs=o, data=_resized(first, i)) for i, o in pairs]
    return grid


def _levels(present: Sequence[int], widths: int, step: int) -> list[int]:
    """Return widths from a quarter of the narrowest to the widest, in multiples of `step`, the widest as it is."""
    widest = max(present)
    lowest = min(max(step, min(present) // _NARROWEST), widest)
    rounded = {-(-int(width) // step) * step for width in np.linspace(lowest, widest, widths)}
    return sorted({width for width in rounded if width < widest} | {widest})


def _resized(layer: LayerShape, channels: int) -> tuple[int, ...]:
    axis = 1 if layer.is_convolution else len(layer.data) - 1
    return tuple(channels if place == axis else dim for place, dim in enumerate(layer.data))
