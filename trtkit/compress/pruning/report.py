"""What a pruning did: how much is gone of what, layer by layer and step by step, and what it is good for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from trtkit.compress.pruning.spec import Goal, Method
from trtkit.compress.size import ModuleSize

__all__ = ["WORTH", "LayerChange", "PruneReport", "PruneStep", "layer_changes"]

WORTH: Mapping[Method, str] = {
    Method.CHANNELS: "The module is dense and smaller: it is faster wherever it runs, most with widths that fit the "
                     "target (round_to).",
    Method.UNSTRUCTURED: "Single zeros give no speed: dense kernels on GPUs and CPUs multiply by them. They make the "
                         "file smaller once it is compressed. For speed, prune channels.",
    Method.TWO_FOUR: "2:4 zeros give speed on NVIDIA GPUs since Ampere only, when TensorRT builds with SPARSE_WEIGHTS, "
                     "in layers of 256 channels and more; on CPUs and elsewhere they give none.",
}
"""What each method gives, in plain words."""


@dataclass(frozen=True)
class LayerChange:
    """One convolution or Linear layer.

    Attributes:
        name, kind: Of the layer, and its class.
        before, after: Output channels.
        why: Why it kept its channels; None when it could lose some.
    """

    name: str
    kind: str
    before: int
    after: int
    why: str | None = None


@dataclass(frozen=True)
class PruneStep:
    """The module after one step of pruning and fine-tuning.

    Attributes:
        number: From 1.
        asked, reached: Share of the goal that is gone since the start, as asked for and as it is.
        macs, parameters: Of the module.
        score: After fine-tuning; None when nothing evaluates.
        latency: In seconds, for Goal.LATENCY.
    """

    number: int
    asked: float
    reached: float
    macs: int
    parameters: int
    score: float | None = None
    latency: float | None = None


@dataclass(frozen=True)
class PruneReport:
    """What a pruning did.

    Attributes:
        method, goal: As asked for.
        asked, reached: Share that is gone, as asked for and as it is.
        before, after: Size of the module.
        layers: Every convolution and Linear layer.
        steps: One row for each step that was kept.
        score: Of the module before pruning; None when nothing evaluates.
        latency: Of the module before pruning, in seconds, for Goal.LATENCY.
        stopped: Why the last good step was kept instead of going on; None when all steps were done.
        notes: What a user must know, in plain words.
    """

    method: Method
    goal: Goal
    asked: float
    reached: float
    before: ModuleSize
    after: ModuleSize
    layers: tuple[LayerChange, ...] = ()
    steps: tuple[PruneStep, ...] = ()
    score: float | None = None
    latency: float | None = None
    stopped: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def eligible(self) -> tuple[str, ...]:
        """Names of the layers that could lose channels."""
        return tuple(layer.name for layer in self.layers if layer.why is None)


def layer_changes(before: nn.Module, after: nn.Module, why: Mapping[str, str]) -> tuple[LayerChange, ...]:
    """Return the convolutions and Linear layers of a module with their output channels before and after."""
    rows = []
    for name, layer in before.named_modules():
        channels = _channels(layer)
        if channels is not None:
            left = _channels(after.get_submodule(name))
            rows.append(LayerChange(name, type(layer).__name__, channels, channels if left is None else left,
                                    why.get(name)))
    return tuple(rows)


def _channels(layer: nn.Module) -> int | None:
    width = getattr(layer, "out_channels", getattr(layer, "out_features", None))
    return width if isinstance(width, int) else None
