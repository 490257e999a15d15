"""Two of every four consecutive input channels -> 0, as the sparse tensor cores of NVIDIA GPUs want it (SM 8.0 on).

For a convolution's weight [K, C, R, S] at most two of weight[k, 4i:4i+4, r, s] are not 0, for a Linear's [K, C] at
most two of weight[k, 4i:4i+4] (TensorRT developer guide, "Sparsity"). TensorRT then tries sparse FP16 and INT8 kernels
beside the dense ones and takes the faster. By its makers that is the sparse one from about 256 input and output
channels on, and never for grouped convolutions (NVIDIA/TensorRT#3849, #4054, #4065). No speed was measured here on a
GPU; CPUs gain nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any

import torch
from torch import nn

from trtkit.compress.pruning.batchnorm import renew_batchnorm
from trtkit.compress.pruning.brain_surgeon import least_of_four, prune_by_error
from trtkit.compress.pruning.masks import Masks
from trtkit.compress.pruning.moments import DIAGONAL_ABOVE, columns, second_moments, to_columns, to_weight
from trtkit.compress.pruning.weights import COMPUTED, Weight, computed_weights, weights_of
from trtkit.errors import SpecError
from trtkit.precision import NodeSelector
from trtkit.progress import Progress, silent

__all__ = ["WIDE", "is_two_four", "sparsify_two_four", "two_four_hindrance"]

WIDE = 256
"""Input and output channels from which sparse kernels tend to be the faster ones."""
_MOMENTS_BYTES = 1 << 30


def two_four_hindrance(weight: Weight) -> str:
    """Return why TensorRT has no sparse kernel for a layer; "" when it has one."""
    module, channels = weight.module, weight.tensor.shape[1]
    if weight.tied:
        return f"its weight is shared with {weight.tied}"
    if not isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Linear, nn.MultiheadAttention)):
        return f"TensorRT has no sparse kernel for {type(module).__name__}"
    if isinstance(module, (nn.Conv1d, nn.Conv2d)) and module.groups > 1:
        return f"TensorRT has no sparse kernel for grouped convolutions, and it has {module.groups} groups"
    return f"its {channels} input channels are no multiple of 4" if channels % 4 else ""


def is_two_four(weight: Weight) -> bool:
    """Whether at most two of every four consecutive input channels are not 0."""
    if two_four_hindrance(weight):
        return False
    return bool(((to_columns(weight).view(-1, 4) != 0).sum(1) <= 2).all())


def sparsify_two_four(module: nn.Module, *, loader: Iterable[Any] | None = None, batches: int = 8,
                      spare: NodeSelector | None = None, progress: Progress = silent) -> Masks:
    """Make every layer 2:4 sparse that TensorRT has sparse kernels for, in place.

    Without a loader the two of least magnitude go. With one, those whose loss changes the layer's outputs least on its
    batches go, and the others are moved to make up for them (SparseGPT, Frantar and Alistarh 2023): far better without
    fine-tuning, and a better start of it. BatchNorm statistics are renewed on the same batches. What is 0 already stays
    0.

    Args:
        module: Any module.
        loader: Batches of calibration data: what forward takes, or that and targets; 256 samples are plenty.
        batches: How many of them to use.
        spare: Modules to leave dense, by name or class name.
        progress: Told each step.

    Returns:
        The masks. Their notes tell the layers left dense with the reason, and what to expect of the others.

    Raises:
        SpecError: A selector matches nothing, no layer is eligible, or the loader is empty.
        CalibrationError: A layer's inputs are not finite.
    """
    if batches < 1:
        raise SpecError(f"batches is {batches}. Give at least 1")
    weights = weights_of(module, spare)
    hindrances = {weight.name: two_four_hindrance(weight) for weight in weights}
    eligible = [weight for weight in weights if not hindrances[weight.name]]
    if not eligible:
        reasons = "; ".join(f"{name}: {why}" for name, why in list(hindrances.items())[:3])
        raise SpecError(f"No layer can be 2:4 sparse ({reasons or 'all are spared'}). Take channels out instead")
    dense = {name: why for name, why in hindrances.items() if why} | dict.fromkeys(computed_weights(module), COMPUTED)
    notes = [f"{name} stays dense: {why}" for name, why in dense.items()]
    notes += _narrow_note(eligible)
    if loader is None:
        masks = Masks(_by_magnitude(eligible), tuple(notes))
        masks.apply(module)
        return masks
    given = list(islice(loader, batches))
    if not given:
        raise SpecError("The loader is empty. Give one with at least one batch, or none, to choose by magnitude")
    kept, unseen = _by_error(module, eligible, given, progress)
    Masks(kept).apply(module)
    notes += [f"{name} was chosen by magnitude: its inputs cannot be observed" for name in unseen]
    return Masks(kept, (*notes, *renew_batchnorm(module, given)))


def _by_magnitude(weights: Sequence[Weight]) -> dict[str, torch.Tensor]:
    return {weight.name: _mask(weight, least_of_four(to_columns(weight).abs())) for weight in weights}


def _mask(weight: Weight, kept: torch.Tensor) -> torch.Tensor:
    return to_weight(weight, kept).contiguous() & (weight.tensor.detach() != 0)


def _by_error(module: nn.Module, weights: Sequence[Weight], batches: Sequence[Any],
              progress: Progress) -> tuple[dict[str, torch.Tensor], list[str]]:
    """Return the masks, and which layers have none by error; the weights are changed."""
    masks: dict[str, torch.Tensor] = {}
    unseen: list[str] = []
    for group in _groups(weights):  # the later ones see what the earlier ones have become
        moments = second_moments(module, group, batches, progress)
        for number, weight in enumerate(group):
            progress("Choosing weights", number, len(group))
            if weight.name not in moments:
                unseen.append(weight.name)
                masks |= _by_magnitude([weight])
                continue
            dense = weight.tensor.detach() != 0
            matrix, kept = prune_by_error(to_columns(weight), moments.pop(weight.name))
            with torch.no_grad():
                weight.tensor.copy_(to_weight(weight, matrix) * dense)
            masks[weight.name] = _mask(weight, kept)
        progress("Choosing weights", len(group), len(group))
    return masks, unseen


def _groups(weights: Sequence[Weight]) -> list[list[Weight]]:
    """Return runs of layers whose second moments fit in memory together."""
    groups: list[list[Weight]] = [[]]
    held = 0
    for weight in weights:
        size = columns(weight)
        needed = 4 * size * (size if size <= DIAGONAL_ABOVE else 1)
        if groups[-1] and held + needed > _MOMENTS_BYTES:
            groups.append([])
            held = 0
        groups[-1].append(weight)
        held += needed
    return groups


def _narrow_note(weights: Sequence[Weight]) -> list[str]:
    narrow = [weight.name for weight in weights if min(weight.tensor.shape[:2]) < WIDE]
    if not narrow:
        return []
    return [f"{len(narrow)} of {len(weights)} sparse layers have fewer than {WIDE} input or output channels: TensorRT "
            "seldom finds a sparse kernel faster there"]
