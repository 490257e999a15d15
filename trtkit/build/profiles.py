"""Shape profiles -> optimization profiles, checked against the network's inputs before TensorRT sees them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from trtkit.build.faults import Watch
from trtkit.errors import BuildError
from trtkit.tensors import ShapeProfile

__all__ = ["add_profiles", "check_profiles", "network_inputs"]

logger = logging.getLogger(__name__)

_HOW = "Give --batch 1,4,8, or --min, --opt and --max NAME=1x3x224x224 for each dynamic input"


def network_inputs(network: Any) -> dict[str, Any]:
    """Return the network's input tensors by name, in their order."""
    inputs = [network.get_input(i) for i in range(network.num_inputs)]
    return {network_input.name: network_input for network_input in inputs}


def check_profiles(network: Any, profiles: Sequence[ShapeProfile], batch: tuple[int, ...] = (), *,
                   static: bool = False) -> tuple[ShapeProfile, ...]:
    """Return the profiles to build with: those given, or one for the batch when that alone is dynamic, or none.

    Args:
        network: The parsed network.
        profiles: What was asked for.
        batch: Smallest, typical and largest batch instead; batch 1 when neither is given.
        static: Whether each shape must have one size (min = opt = max), as the DLA needs it.

    Raises:
        BuildError: A dynamic input has no profile, or a profile does not fit the inputs.
    """
    inputs = network_inputs(network)
    dynamic = [name for name, network_input in inputs.items()
               if network_input.is_shape_tensor or -1 in tuple(network_input.shape)]
    if not profiles and dynamic:
        profiles = (_batch_profile(inputs, dynamic, batch),)
    for index, profile in enumerate(profiles):
        for fault in _faults(index, profile, inputs, dynamic):
            raise BuildError(fault)
        if static and not profile.min == profile.opt == profile.max:
            raise BuildError(f"Profile {index} has a range of shapes; the DLA runs one. Give min, opt and max the "
                             "same sizes, such as --batch 1,1,1")
    return tuple(profiles)


def _batch_profile(inputs: dict[str, Any], dynamic: list[str], batch: tuple[int, ...]) -> ShapeProfile:
    shapes = {name: tuple(inputs[name].shape) for name in dynamic}
    batch_only = all(shape[:1] == (-1,) and -1 not in shape[1:] for shape in shapes.values())
    if not batch_only or any(inputs[name].is_shape_tensor for name in dynamic):
        told = ", ".join(f"{name}: {shape}" for name, shape in shapes.items())
        raise BuildError(f"More than the batch is dynamic ({told}; -1 is dynamic) and no profile says how large each "
                         "input gets. Give --min, --opt and --max NAME=1x3x224x224 for each")
    if not batch:
        logger.info("No profile given: building for batch 1")
    low, mid, high = ({name: (size, *shape[1:]) for name, shape in shapes.items()} for size in batch or (1, 1, 1))
    return ShapeProfile(low, mid, high)


def _faults(index: int, profile: ShapeProfile, inputs: dict[str, Any], dynamic: list[str]) -> list[str]:
    there = ", ".join(f"{name}: {tuple(network_input.shape)}" for name, network_input in inputs.items())
    unknown = [name for name in profile.min if name not in inputs]
    missing = [name for name in dynamic if name not in profile.min]
    if unknown:
        return [f"Profile {index} names '{unknown[0]}', which is no input. The model's inputs: {there}"]
    if missing:
        return [f"Profile {index} says nothing of the dynamic input '{missing[0]}'. {_HOW}. The model's inputs: "
                f"{there}"]
    return [f"Profile {index} gives input '{name}' {which} shape {shape}, the model has {tuple(inputs[name].shape)} "
            "(-1 is dynamic). Keep its rank and its fixed sizes"
            for name in profile.min if not inputs[name].is_shape_tensor
            for which, shape in (("min", profile.min[name]), ("opt", profile.opt[name]), ("max", profile.max[name]))
            if not _fits(shape, tuple(inputs[name].shape))]


def _fits(shape: tuple[int, ...], declared: tuple[int, ...]) -> bool:
    return len(shape) == len(declared) and all(want in (-1, size) for size, want in zip(shape, declared))


def add_profiles(builder: Any, network: Any, config: Any, profiles: Sequence[ShapeProfile], watch: Watch) -> list[Any]:
    """Add the profiles to `config` and return TensorRT's objects for them.

    Raises:
        BuildError: TensorRT refused one.
    """
    made = []
    for index, profile in enumerate(profiles):
        made.append(_optimization_profile(builder, network, profile))
        added = config.add_optimization_profile(made[-1])  # -1 when it is invalid
        watch.check(f"optimization profile {index} was refused", added >= 0)
    return made


def _optimization_profile(builder: Any, network: Any, profile: ShapeProfile) -> Any:
    optimization = builder.create_optimization_profile()
    for name, network_input in network_inputs(network).items():
        if name in profile.min:
            set_shapes = optimization.set_shape_input if network_input.is_shape_tensor else optimization.set_shape
            set_shapes(name, profile.min[name], profile.opt[name], profile.max[name])
    return optimization
