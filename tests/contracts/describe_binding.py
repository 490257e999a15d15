"""Run alone with one TensorRT binding: prints what it has, and what our version-dependent code does with it.

    python describe_binding.py FLAVOUR FOLDER     FOLDER holds the unpacked wheel; "" for an installed one
"""

import importlib
import json
import sys
from types import SimpleNamespace

flavour_name, folder = sys.argv[1:]
if folder:
    sys.path.insert(0, folder)
    sys.modules["tensorrt"] = importlib.import_module("tensorrt_bindings")
trt = importlib.import_module(flavour_name)

from trtkit.build.flavour import Flavour  # noqa: E402
from trtkit.build.monitor import attach_monitor  # noqa: E402
from trtkit.build.network import network_flags  # noqa: E402
from trtkit.build.weak import make_calibrator  # noqa: E402
from trtkit.errors import BuildError  # noqa: E402
from trtkit.runtime.trt_log import capture_log  # noqa: E402

flavour = Flavour(trt, flavour_name, trt.__version__)


def mask(typing):
    try:
        return network_flags(flavour, typing)
    except BuildError as err:
        return str(err)


def calibration():
    if not flavour.has_weak_typing:
        return None
    cache = b"TRT-8502-EntropyCalibration2\nx: 3c010a14\n"
    calibrator = make_calibrator(flavour, cache)
    return [calibrator.get_batch_size(), calibrator.get_batch(["x"]), calibrator.read_calibration_cache() == cache]


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
    "progress": progress(),
    "logging": logging(),
}))
