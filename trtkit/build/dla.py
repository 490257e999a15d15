"""Send the layers to a Deep Learning Accelerator and tell which it does not take, or say why there is none."""

from __future__ import annotations

from typing import Any

from trtkit.build.config import set_flag
from trtkit.build.faults import Watch
from trtkit.build.flavour import Flavour
from trtkit.build.options import BuildOptions
from trtkit.errors import BuildError
from trtkit.precision import Precision

__all__ = ["tell_fallbacks", "use_dla"]


def use_dla(flavour: Flavour, builder: Any, config: Any, options: BuildOptions, watch: Watch) -> None:
    """Make the DLA core of `options` the default device of every layer.

    Raises:
        BuildError: TensorRT sees no such core, or the precision is one that a DLA does not run.
    """
    core, cores = options.dla_core, int(builder.num_DLA_cores)
    if core is None:
        return
    if core >= cores:
        raise BuildError(f"{flavour.title} sees {cores} DLA cores here, core {core} was asked for. "
                         f"{_why(flavour, cores)}")
    if options.precision is Precision.FP32:
        raise BuildError("The DLA runs FP16 and INT8, not FP32. Build with precision fp16 or int8")
    config.default_device_type = flavour.trt.DeviceType.DLA
    config.DLA_core = core
    watch.check(f"DLA core {core} was refused", config.DLA_core == core)
    if options.gpu_fallback:
        set_flag(flavour, config, "GPU_FALLBACK", watch)


def tell_fallbacks(network: Any, config: Any, options: BuildOptions, watch: Watch) -> None:
    """Warn of the layers that the DLA does not take; they go to the GPU. Asked after the precision is set.

    Raises:
        BuildError: There are such layers, and `options` allow no GPU.
    """
    if options.dla_core is None:
        return
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    refused = [layer.name for layer in layers if not config.can_run_on_DLA(layer)]
    if not refused:
        return
    told = f"{len(refused)} of {len(layers)} layers do not run on the DLA: {', '.join(refused[:8])}"
    if not options.gpu_fallback:
        raise BuildError(f"{told}. Allow gpu_fallback, or keep to what a DLA runs: trtkit quantize --target orin-dla "
                         "lists it")
    watch.warn(f"{told}; the GPU runs them")


def _why(flavour: Flavour, cores: int) -> str:
    if cores:
        return f"Choose 0 to {cores - 1}"
    if flavour.is_rtx:
        return "TensorRT-RTX never uses a DLA. Build with TensorRT on the board"
    return ("Xavier and Orin have DLAs (Orin Nano and Thor have none), and TensorRT drives them up to 10.7 (JetPack "
            "5 and 6) and again from 11.4.1 (JetPack 7.2.2). Build on such a board, or for its GPU")
