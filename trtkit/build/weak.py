"""The weak path of TensorRT 8.5 to 10: precision by builder flags, INT8 ranges from a calibration cache.

TensorRT 11 and TensorRT-RTX have none of it; `trtkit.build.network.network_flags` refuses before this is reached.
"""

from __future__ import annotations

from typing import Any

from trtkit.build.config import set_flag
from trtkit.build.faults import Watch
from trtkit.build.flavour import Flavour
from trtkit.build.options import BuildOptions
from trtkit.errors import BuildError
from trtkit.precision import Precision

__all__ = ["apply_weak_precision", "make_calibrator"]

_FLAGS = {Precision.FP32: (), Precision.FP16: ("FP16",), Precision.INT8: ("INT8", "FP16")}


def apply_weak_precision(flavour: Flavour, network: Any, config: Any, options: BuildOptions, profiles: list[Any],
                         watch: Watch) -> Any:
    """Set the precision flags and, for INT8, the calibrator; return what must live until the build is over.

    Args:
        flavour: The imported TensorRT, one that has weak typing.
        network: The parsed network.
        config: The builder config.
        options: Its precision and calibration cache count.
        profiles: TensorRT's optimization profiles; INT8 with dynamic shapes calibrates with the first.
        watch: Reads the log after each step.

    Raises:
        BuildError: INT8 without a cache and without Q/DQ nodes, a cache of another kind, or TensorRT refused.
    """
    for name in _FLAGS[options.precision]:
        set_flag(flavour, config, name, watch)
    if options.precision is not Precision.INT8:
        return None
    if options.calibration_cache is None:
        if not _has_quantize_layers(flavour, network):
            raise BuildError("INT8 with weak typing needs ranges: the model has no Q/DQ nodes and there is no "
                             "calibration cache. Write one from a table: trtkit quantize --target TARGET, and pass "
                             "it with --calib")
        return None
    calibrator = make_calibrator(flavour, options.calibration_cache)
    config.int8_calibrator = calibrator
    if profiles:
        config.set_calibration_profile(profiles[0])
    watch.check("the calibration cache was refused")
    return calibrator


def make_calibrator(flavour: Flavour, cache: bytes) -> Any:
    """Return an IInt8EntropyCalibrator2 that has no data and answers with `cache`.

    Raises:
        BuildError: The cache is not one for this calibrator: its first line tells.
    """
    first = cache[:200].split(b"\n", 1)[0].decode("ascii", "replace")
    if not (first.startswith("TRT-") and first.rstrip().endswith("-EntropyCalibration2")):
        raise BuildError(f"Calibration cache begins with '{first[:60]}', not with 'TRT-<version>-EntropyCalibration2'. "
                         "Write it from a table: trtkit quantize --target TARGET")

    class CachedCalibrator(flavour.trt.IInt8EntropyCalibrator2):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            flavour.trt.IInt8EntropyCalibrator2.__init__(self)

        def get_batch_size(self) -> int:
            return 1

        def get_batch(self, names: list[str]) -> None:
            return None

        def read_calibration_cache(self) -> bytes:
            return cache

        def write_calibration_cache(self, data: bytes) -> None:
            return None

    return CachedCalibrator()


def _has_quantize_layers(flavour: Flavour, network: Any) -> bool:
    return any(network.get_layer(i).type == flavour.trt.LayerType.QUANTIZE for i in range(network.num_layers))
