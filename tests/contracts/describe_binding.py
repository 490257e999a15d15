"""Run alone with one TensorRT binding: prints what it has, and what our version-dependent code does with it.

    python describe_binding.py FLAVOUR FOLDER     FOLDER holds the unpacked wheel; "" for an installed one
"""

import contextlib
import importlib
import json
import sys
from types import SimpleNamespace

flavour_name, folder = sys.argv[1:]
if folder:
    sys.path.insert(0, folder)
    sys.modules["tensorrt"] = importlib.import_module("tensorrt_bindings")
trt = importlib.import_module(flavour_name)

import numpy as np  # noqa: E402

from trtkit.build.flavour import Flavour  # noqa: E402
from trtkit.build.live import finish_calibration, make_live_calibrator  # noqa: E402
from trtkit.build.monitor import attach_monitor  # noqa: E402
from trtkit.build.network import network_flags  # noqa: E402
from trtkit.build.weak import make_calibrator  # noqa: E402
from trtkit.errors import BuildError  # noqa: E402
from trtkit.runtime.trt_log import capture_log  # noqa: E402
from trtkit.tensors import TensorSpec  # noqa: E402

flavour = Flavour(trt, flavour_name, trt.__version__)


def mask(typing):
    try:
        return network_flags(flavour, typing)
    except BuildError as err:
        return str(err)


def calibration():
    if not flavour.has_weak_typing:
        return None
    told = []
    for algorithm in ("EntropyCalibration2", "MinMaxCalibration"):
        cache = f"TRT-8502-{algorithm}\nx: 3c010a14\n".encode()
        calibrator = make_calibrator(flavour, cache)
        told += [calibrator.get_batch_size(), calibrator.get_batch(["x"]), calibrator.read_calibration_cache() == cache]
    return told


def live_calibration():
    if not flavour.has_weak_typing:
        return None
    memory = SimpleNamespace(address=4096, free=lambda: None)
    cuda = SimpleNamespace(active=contextlib.nullcontext, device_memory=lambda size: memory, close=lambda: None,
                           copy_in=lambda target, source: None, synchronize=lambda: None)
    calibrator = make_live_calibrator(flavour, [{"x": np.zeros((3, 2))}], (TensorSpec("x", "float32", (2, 2)),), cuda)
    told = [calibrator.get_batch_size(), calibrator.get_batch(["x"]), calibrator.get_batch(["x"]),
            calibrator.read_calibration_cache()]
    calibrator.write_calibration_cache(b"a cache")
    return [*told, finish_calibration(calibrator).decode()]


def progress():
    told = []
    config = SimpleNamespace(progress_monitor=None) if hasattr(trt, "IProgressMonitor") else SimpleNamespace()
    monitor = attach_monitor(flavour, config, lambda done, total: told.append([done, total]))
    if monitor is None:
        return None
    monitor.phase_start("building", None, 2)
    return [monitor.step_complete("building", 0), told]


def logging():
    log, logger = capture_log(trt)
    logger.log(trt.ILogger.Severity.ERROR, "it failed")
    logger.log(trt.ILogger.Severity.VERBOSE, "chatter")
    return [list(log.errors()), capture_log(trt)[1] is logger]


classes = {name: dir(value) for name, value in vars(trt).items() if isinstance(value, type)}
print(json.dumps({
    "version": trt.__version__,
    "module": dir(trt),
    "classes": classes,
    "data_types": list(trt.DataType.__members__),
    "masks": {typing: mask(typing) for typing in ("strong", "weak")},
    "calibration": calibration(),
    "live_calibration": live_calibration(),
    "progress": progress(),
    "logging": logging(),
}))
