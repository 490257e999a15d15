"""A model's configuration -> the same model, narrower and shallower: a student that fits its teacher layer by layer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from trtkit.errors import SpecError

__all__ = ["scale_config", "scaled", "select_weights"]

_WIDTHS = ("hidden_size", "hidden_sizes", "embed_dim", "embedding_size", "intermediate_size", "neck_hidden_sizes",
           "decoder_hidden_size", "d_model", "encoder_ffn_dim", "decoder_ffn_dim")
_DEPTHS = ("num_hidden_layers", "depths", "depth", "encoder_layers", "decoder_layers")
_WIDTH_FACTORS = ("depth_multiplier", "width_coefficient")  # MobileNet's depth_multiplier multiplies channels
_DEPTH_FACTORS = ("depth_coefficient",)
_HEADS = {"num_attention_heads": ("hidden_size", "hidden_sizes"), "num_heads": ("embed_dim",),
          "encoder_attention_heads": ("d_model",), "decoder_attention_heads": ("d_model",)}
_DERIVED = ("stage_names", "out_features", "out_indices", "pooler_output_size")
"""What a configuration computes from the rest, and would take from the teacher if it were told."""


def scaled(teacher: nn.Module, *, width: float = 1.0, depth: float = 1.0, channel_multiple: int = 8) -> nn.Module:
    """Return a module of the teacher's class with a scaled configuration and random weights.

    Args:
        teacher: A module that is made from its `config`, as those of transformers are.
        width, depth, channel_multiple: As `scale_config` takes them.

    Raises:
        SpecError: The module has no `config`, or there is nothing to scale in it.
    """
    config = getattr(teacher, "config", None)
    if config is None:
        raise SpecError(f"{type(teacher).__name__} has no `config` to scale. Make the student with its own factory")
    return type(teacher)(scale_config(config, width=width, depth=depth, channel_multiple=channel_multiple))


def scale_config(config: Any, *, width: float = 1.0, depth: float = 1.0, channel_multiple: int = 8) -> Any:
    """Return a configuration with scaled channels and layers.

    Channels become multiples of `channel_multiple`, attention heads keep about their width and divide the channels, and
    each stage keeps a layer.

    Args:
        config: Of transformers, or a mapping that uses its names (hidden_size, depths, num_attention_heads...).
        width: Factor on channels.
        depth: Factor on layers.
        channel_multiple: What a target computes without padding, such as 8 in FP16 on tensor cores.

    Returns:
        One of the same class; a dict for a mapping.

    Raises:
        SpecError: A factor is not above 0, or the configuration has nothing of a name that is known.
    """
    if not (width > 0 and depth > 0 and channel_multiple >= 1):
        raise SpecError(f"width is {width}, depth {depth} and channel_multiple {channel_multiple}; the factors must be "
                        "above 0 and the multiple at least 1")
    values = dict(config if isinstance(config, Mapping) else config.to_dict())
    changes = {**_scaled_channels(values, width, channel_multiple), **_scaled_layers(values, depth)}
    if not changes:
        known = ", ".join((*_WIDTHS, *_DEPTHS))
        raise SpecError(f"{type(config).__name__} has no size that is known ({known}). Change its sizes by hand")
    kept = {name: value for name, value in values.items() if name not in _derived(values)}
    if isinstance(config, Mapping):
        return {**kept, **changes}
    return type(config).from_dict({**kept, **changes})


def select_weights(student: nn.Module, teacher: nn.Module) -> tuple[str, ...]:
    """Begin a student with evenly spaced rows of its teacher's weights, in place, and return the names that were taken.

    Weights of one name are taken where each dimension fits into the teacher's: the same channels everywhere, so layers
    go on fitting each other, and the first layers of a deeper teacher. It helps with and without distillation: a third
    of a tagger's channels reached mAP 0.56 instead of 0.42 in 12 epochs, and 0.68 instead of 0.58 with tags and hints.

    Args:
        student: Named as the teacher, such as one made by `scaled`.
        teacher: Trained.

    Raises:
        SpecError: No weight fits.

    Source: Xu et al., "Initializing Models with Larger Ones", ICLR 2024 (weight selection).
    """
    theirs = teacher.state_dict()
    taken = []
    with torch.no_grad():
        for name, ours in student.state_dict().items():
            source = theirs.get(name)
            if source is None or source.ndim != ours.ndim or any(a > b for a, b in zip(ours.shape, source.shape)):
                continue
            for axis, count in enumerate(ours.shape):
                source = source.index_select(axis, _spaced(count, source.shape[axis]).to(source.device))
            ours.copy_(source)
            taken.append(name)
    if not taken:
        raise SpecError(f"No weight of {type(student).__name__} fits into one of {type(teacher).__name__} of its name. "
                        "Make the student by scaling the teacher")
    return tuple(taken)


def _spaced(count: int, total: int) -> torch.Tensor:
    return torch.arange(count) * total // max(count, 1)


def _scaled_channels(values: Mapping[str, Any], width: float, multiple: int) -> dict[str, Any]:
    if width == 1:
        return {}
    changes: dict[str, Any] = {name: values[name] * width for name in _WIDTH_FACTORS if name in values}
    if "width_coefficient" in values:  # EfficientNet's last layer, which it does not compute itself
        changes["hidden_dim"] = _rounded(values["hidden_dim"], width, values["depth_divisor"])
    steps = {}
    if "groups_width" in values:  # RegNet's stages are whole groups
        changes["groups_width"] = steps["hidden_sizes"] = _rounded(values["groups_width"], width, multiple)
    for name in _WIDTHS:
        if values.get(name) is not None and name not in _derived(values):
            step = steps.get(name, multiple)
            sizes = [_rounded(size, width, step) for size in _listed(values[name])]
            changes[name] = sizes if isinstance(values[name], (list, tuple)) else sizes[0]
    return changes | _scaled_heads(values, changes)


def _scaled_heads(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    scaled_heads: dict[str, Any] = {}
    for name, widths in _HEADS.items():
        width = next((each for each in widths if each in changes), None)
        if width is None or values.get(name) is None:
            continue
        heads = _listed(values[name])
        before, after = (_by_stage(_listed(sizes[width]), len(heads)) for sizes in (values, changes))
        fitted = [_fitted_heads(*stage) for stage in zip(heads, before, after)]
        scaled_heads[name] = fitted if isinstance(values[name], (list, tuple)) else fitted[0]
    return scaled_heads


def _fitted_heads(heads: int, before: int, after: int) -> int:
    """Return the divisor of `after` that comes nearest to the width of a head before."""
    wanted = heads * after / before
    divisors = [count for count in range(1, after + 1) if after % count == 0]
    return min(divisors, key=lambda count: (abs(math.log(count / wanted)), -count))


def _by_stage(widths: list[int], stages: int) -> list[int]:
    """Return the channels of each stage: one width for a whole network with stages is Swin's, doubled at each."""
    return widths if len(widths) == stages else [widths[0] << stage for stage in range(stages)]


def _scaled_layers(values: Mapping[str, Any], depth: float) -> dict[str, Any]:
    if depth == 1:
        return {}
    changes: dict[str, Any] = {name: values[name] * depth for name in _DEPTH_FACTORS if name in values}
    for name in _DEPTHS:
        if values.get(name) is not None and name not in _derived(values):
            layers = [_rounded(count, depth, 1) for count in _listed(values[name])]
            changes[name] = layers if isinstance(values[name], (list, tuple)) else layers[0]
    return changes


def _derived(values: Mapping[str, Any]) -> tuple[str, ...]:
    of_swin = ("hidden_size", "num_layers", "num_hidden_layers") if "embed_dim" in values else ()
    of_efficientnet = ("num_hidden_layers",) if "num_block_repeats" in values else ()
    return (*_DERIVED, *of_swin, *of_efficientnet)


def _rounded(size: int, factor: float, multiple: int) -> int:
    return max(multiple, round(size * factor / multiple) * multiple)


def _listed(value: Any) -> list[int]:
    return list(value) if isinstance(value, (list, tuple)) else [value]
