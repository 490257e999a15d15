"""The build itself, inside the child process: model file -> plan bytes, one call of TensorRT after the other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from trtkit.build.config import configure
from trtkit.build.dla import tell_fallbacks, use_dla
from trtkit.build.faults import Watch
from trtkit.build.flavour import Flavour
from trtkit.build.live import calibration_inputs, finish_calibration, make_live_calibrator, read_samples
from trtkit.build.monitor import attach_monitor
from trtkit.build.network import create_network, parse_onnx
from trtkit.build.options import BuildOptions
from trtkit.build.plugins import load_plugins
from trtkit.build.profiles import add_profiles, check_profiles
from trtkit.build.sparsity import wants_sparse_kernels
from trtkit.build.timing import attach_timing_cache, save_timing_cache
from trtkit.build.weak import apply_weak_precision
from trtkit.runtime.cuda import PyCuda
from trtkit.runtime.trt_log import capture_log
from trtkit.tensors import ShapeProfile

__all__ = ["Compiled", "compile_model"]


@dataclass(frozen=True)
class Compiled:
    """Plan bytes, the profiles and whether sparse kernels were tried, and the calibration cache of live samples."""

    data: bytes
    profiles: tuple[ShapeProfile, ...]
    sparse: bool = False
    cache: bytes | None = None


def compile_model(flavour: Flavour, model: Path, options: BuildOptions, report: Callable[[int, int], None],
                  samples: Path | None = None) -> Compiled:
    """Build the plan of an ONNX file with the TensorRT of this process.

    Args:
        flavour: The imported TensorRT.
        model: Path of the ONNX file; external data lies beside it.
        options: How to build.
        report: Called with steps done and steps known so far.
        samples: Folder of calibration samples (`trtkit.build.live`), for weak INT8 without a cache.

    Raises:
        BuildError: TensorRT refused something; with its own words.
    """
    log, logger = capture_log(flavour.trt)
    watch = Watch(flavour, log)
    load_plugins(flavour, logger, options.plugins, watch)
    builder = flavour.trt.Builder(logger)
    network = create_network(flavour, builder, options.typing, watch)
    parser = parse_onnx(flavour, network, logger, model, watch)
    profiles = check_profiles(network, options.profiles, options.batch, static=options.dla_core is not None)
    options = replace(options, sparse_weights=wants_sparse_kernels(flavour, network, options))
    config = builder.create_builder_config()
    configure(flavour, network, config, options, watch)
    use_dla(flavour, builder, config, options, watch)
    added = add_profiles(builder, network, config, profiles, watch)
    calibrator = live = None
    if samples is not None:
        live = make_live_calibrator(flavour, read_samples(samples), calibration_inputs(network, profiles), PyCuda())
    if options.typing == "weak":
        calibrator = apply_weak_precision(flavour, network, config, options, added, watch, live)
    tell_fallbacks(network, config, options, watch)
    cache = attach_timing_cache(flavour, config, options.timing_cache, watch)
    monitor = attach_monitor(flavour, config, report)
    serialized = builder.build_serialized_network(network, config)
    measured = None if live is None else finish_calibration(live)
    watch.check_result("the engine cannot be built", serialized is not None)
    save_timing_cache(config, options.timing_cache, cache)
    del parser, calibrator, monitor  # TensorRT used them up to here
    return Compiled(bytes(serialized), profiles, bool(options.sparse_weights), measured)
