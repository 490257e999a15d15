"""The weak path of TensorRT 8.5 to 10: precision by builder flags, INT8 ranges from a calibration cache or live data.

    calibrator   IInt8EntropyCalibrator2 that has no data and answers with the cache (or the one of trtkit.build.live)
    tensors      ITensor.set_dynamic_range(-amax, amax) for each tensor of the cache

TensorRT 11 and TensorRT-RTX have none of it; `trtkit.build.network.network_flags` refuses before this is reached. Not
run on a GPU yet: the API is held against the real bindings of each version in tests/contracts.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from trtkit.build.config import set_flag
from trtkit.build.faults import Watch
from trtkit.build.flavour import Flavour
from trtkit.build.options import BuildOptions
from trtkit.errors import BuildError, CalibrationError
from trtkit.precision import Precision
from trtkit.ranges.cache import ENTROPY_2, MIN_MAX, cache_algorithm, parse_cache

__all__ = ["apply_weak_precision", "make_calibrator", "network_tensors"]

_FLAGS = {Precision.FP32: (), Precision.FP16: ("FP16",), Precision.INT8: ("INT8",),
          Precision.INT8_FP16: ("INT8", "FP16")}

_CALIBRATORS = {ENTROPY_2: "IInt8EntropyCalibrator2", MIN_MAX: "IInt8MinMaxCalibrator"}
"""Algorithm in a cache's header -> the calibrator that TensorRT takes it from."""


def apply_weak_precision(flavour: Flavour, network: Any, config: Any, options: BuildOptions, profiles: list[Any],
                         watch: Watch, live: Any = None) -> Any:
    """Set the precision flags and, for INT8, the ranges; return what must live until the build is over.

    Args:
        flavour: The imported TensorRT, one that has weak typing.
        network: The parsed network.
        config: The builder config.
        options: Precision, calibration cache and `ranges_by` count.
        profiles: TensorRT's optimization profiles; INT8 with dynamic shapes calibrates with the first.
        watch: Reads the log after each step.
        live: A calibrator that has data, used instead of a cache.

    Raises:
        BuildError: A precision that weak typing does not have, INT8 without ranges, a cache of another model or kind,
            or TensorRT refused.
    """
    if options.precision not in _FLAGS:
        raise BuildError(f"Weak typing runs {', '.join(p.value for p in _FLAGS)}, not {options.precision.value}. "
                         "Lower the model to it and build with typing 'strong', on TensorRT 10 and later")
    for name in _FLAGS[options.precision]:
        set_flag(flavour, config, name, watch)
    if not options.is_weak_int8:
        return None
    if options.calibration_cache is None and live is None:
        if not _has_quantize_layers(flavour, network):
            raise BuildError("INT8 with weak typing needs ranges: the model has no Q/DQ nodes and there is no "
                             "calibration cache. Write one from a table: trtkit quantize --target TARGET, and pass "
                             "it with --calib")
        return None
    if options.calibration_cache is not None:
        _check_cache(flavour, network, options, watch)
        if options.ranges_by == "tensors":
            _set_ranges(network, options.calibration_cache, watch)
            return None
    calibrator = live or make_calibrator(flavour, options.calibration_cache or b"")
    config.int8_calibrator = calibrator
    if profiles:
        config.set_calibration_profile(profiles[0])
    watch.check("the calibrator was refused")
    return calibrator


def make_calibrator(flavour: Flavour, cache: bytes) -> Any:
    """Return a calibrator of the cache's own kind that has no data and answers with `cache`.

    Raises:
        BuildError: It is no cache, or of a calibrator that trtkit does not serve.
    """
    algorithm = _algorithm(cache)

    class CachedCalibrator(getattr(flavour.trt, _CALIBRATORS[algorithm])):  # type: ignore[misc]
        def __init__(self) -> None:
            getattr(flavour.trt, _CALIBRATORS[algorithm]).__init__(self)

        def get_batch_size(self) -> int:
            return 1

        def get_batch(self, names: list[str]) -> None:
            return None

        def read_calibration_cache(self) -> bytes:
            return cache

        def write_calibration_cache(self, data: bytes) -> None:
            return None

    return CachedCalibrator()


def network_tensors(network: Any) -> Iterator[Any]:
    """Yield the inputs of a network and the outputs of its layers."""
    for index in range(network.num_inputs):
        yield network.get_input(index)
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        for output in range(layer.num_outputs):
            yield layer.get_output(output)


def _algorithm(cache: bytes) -> str:
    try:
        algorithm = cache_algorithm(cache)
    except CalibrationError as err:
        raise BuildError(str(err)) from err
    if algorithm not in _CALIBRATORS:
        raise BuildError(f"The calibration cache was written by a {algorithm} calibrator; TensorRT is given those of "
                         f"{' and '.join(_CALIBRATORS)}. Convert it: trtkit calibrate --from-cache, then quantize")
    return algorithm


def _check_cache(flavour: Flavour, network: Any, options: BuildOptions, watch: Watch) -> None:
    """Raise when the cache is of no use here; warn of the tensors that it leaves out."""
    assert options.calibration_cache is not None
    if options.dla_core is not None and _algorithm(options.calibration_cache) != ENTROPY_2:
        raise BuildError(f"A DLA takes caches of {ENTROPY_2} alone, this one is of "
                         f"{_algorithm(options.calibration_cache)}. Convert it: trtkit calibrate --from-cache, then "
                         "quantize")
    try:
        scales = parse_cache(options.calibration_cache)
    except CalibrationError as err:
        raise BuildError(str(err)) from err
    floats = [network_tensor.name for network_tensor in network_tensors(network)
              if network_tensor.dtype == flavour.trt.DataType.FLOAT]
    without = [name for name in floats if name not in scales]
    if floats and len(without) == len(floats):
        raise BuildError(f"None of the cache's {len(scales)} tensors is in the network, whose tensors are "
                         f"{', '.join(floats[:4])} and so on. Give the cache of this very model")
    if without:
        watch.warn(f"{len(without)} of {len(floats)} tensors have no scale in the calibration cache, and their layers "
                   f"may not run in INT8: {', '.join(without[:8])}")


def _set_ranges(network: Any, cache: bytes, watch: Watch) -> None:
    scales = parse_cache(cache)
    for network_tensor in network_tensors(network):
        amax = 127 * scales.get(network_tensor.name, 0.0)
        if amax:
            accepted = network_tensor.set_dynamic_range(-amax, amax)
            watch.check(f"the range {amax:g} of tensor '{network_tensor.name}' was refused", accepted)


def _has_quantize_layers(flavour: Flavour, network: Any) -> bool:
    return any(network.get_layer(i).type == flavour.trt.LayerType.QUANTIZE for i in range(network.num_layers))
