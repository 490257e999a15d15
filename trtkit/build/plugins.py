"""Load plugin libraries before a model that needs them is parsed."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from trtkit.build.faults import Watch
from trtkit.build.flavour import Flavour
from trtkit.errors import BuildError

__all__ = ["load_plugins"]


def load_plugins(flavour: Flavour, logger: Any, libraries: Iterable[Path], watch: Watch) -> None:
    """Register TensorRT's own plugins and those of the libraries.

    Raises:
        BuildError: A library is missing, does not load or does not fit this TensorRT.
    """
    watch.check_result("its own plugins cannot be registered", flavour.trt.init_libnvinfer_plugins(logger, ""))
    registry = flavour.trt.get_plugin_registry()
    for library in libraries:
        try:
            if hasattr(registry, "load_library"):
                loaded = registry.load_library(str(library))
                watch.check_result(f"plugin library '{library}' cannot be loaded", loaded is not None)
            else:  # TensorRT 8.5: the library registers itself when it is loaded
                ctypes.CDLL(str(library))
        except OSError as err:
            raise BuildError(f"Plugin library '{library}' cannot be loaded: {err}. Compile it for this machine and "
                             f"{flavour.title}") from err
