"""Build options -> builder config; each setting is read back: TensorRT refuses many of them with a log line only."""

from __future__ import annotations

from typing import Any

from trtkit.build.faults import Watch
from trtkit.build.flavour import Flavour
from trtkit.build.options import BuildOptions
from trtkit.errors import BuildError

__all__ = ["configure", "set_flag"]


_FP8_CAPABILITIES = ("8.9", "12.0")
"""GPUs with FP8 that TensorRT-RTX builds for. With none given it builds an FP8 engine for Ampere, too, which does not
run there."""


def configure(flavour: Flavour, network: Any, config: Any, options: BuildOptions, watch: Watch) -> None:
    """Set on `config` what holds for weak and strong typing alike; the network is parsed.

    Raises:
        BuildError: This TensorRT lacks a setting or refused it.
    """
    if options.workspace_bytes is not None:
        config.set_memory_pool_limit(flavour.trt.MemoryPoolType.WORKSPACE, options.workspace_bytes)
        watch.check(f"a workspace of {options.workspace_bytes} bytes was refused")
    if options.optimization_level is not None:
        _set_level(flavour, config, options.optimization_level, watch)
    if not options.tf32:
        config.clear_flag(flavour.trt.BuilderFlag.TF32)
        watch.check("TF32 cannot be turned off", not config.get_flag(flavour.trt.BuilderFlag.TF32))
    for name in ("SPARSE_WEIGHTS",) * bool(options.sparse_weights) + options.flags:
        set_flag(flavour, config, name, watch)
    capabilities = options.compute_capabilities
    if not capabilities and hasattr(config, "num_compute_capabilities") and _holds_fp8(flavour, network):
        capabilities = _FP8_CAPABILITIES
    if capabilities:
        _set_compute_capabilities(flavour, config, capabilities, watch)


def _holds_fp8(flavour: Flavour, network: Any) -> bool:
    layers = (network.get_layer(number) for number in range(network.num_layers))
    return any(layer.get_output(place).dtype == flavour.trt.DataType.FP8
               for layer in layers for place in range(layer.num_outputs))


def set_flag(flavour: Flavour, config: Any, name: str, watch: Watch) -> None:
    """Set the builder flag called `name`.

    Raises:
        BuildError: This TensorRT has no such flag, or refused it.
    """
    flag = getattr(flavour.trt.BuilderFlag, name, None)
    if flag is None:
        known = ", ".join(sorted(flavour.trt.BuilderFlag.__members__))
        raise BuildError(f"{flavour.title} has no builder flag '{name}'. It has: {known}")
    config.set_flag(flag)
    watch.check(f"builder flag {name} was refused", config.get_flag(flag))


def _set_level(flavour: Flavour, config: Any, level: int, watch: Watch) -> None:
    if not hasattr(config, "builder_optimization_level"):
        raise BuildError(f"{flavour.title} has no optimization level, which came with 8.6. "
                         "Leave optimization_level out")
    config.builder_optimization_level = level
    watch.check(f"optimization level {level} was refused", config.builder_optimization_level == level)


def _set_compute_capabilities(flavour: Flavour, config: Any, wanted: tuple[str, ...], watch: Watch) -> None:
    if not hasattr(config, "num_compute_capabilities"):
        raise BuildError(f"{flavour.title} builds for the GPU that is here, not for a list of compute capabilities. "
                         "Leave compute_capabilities out, or build with TensorRT-RTX")
    known = flavour.trt.ComputeCapability.__members__
    config.num_compute_capabilities = len(wanted)
    for index, sm in enumerate(wanted):
        name = f"SM{sm.replace('.', '')}"
        if name not in known:
            has = ", ".join(f"{name[2:-1]}.{name[-1]}" for name in known if name.startswith("SM"))
            raise BuildError(f"{flavour.title} cannot build for SM {sm}. It can for: {has}; with none given, for "
                             "Ampere and later")
        watch.check(f"compute capability {sm} was refused", config.set_compute_capability(known[name], index))
