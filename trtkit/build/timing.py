"""The timing cache: what TensorRT measured in one build, kept for the next."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from trtkit.build.faults import Watch
from trtkit.build.flavour import Flavour
from trtkit.files import atomic_write

__all__ = ["attach_timing_cache", "save_timing_cache"]

logger = logging.getLogger(__name__)


def attach_timing_cache(flavour: Flavour, config: Any, path: Path | None, watch: Watch) -> Any:
    """Give `config` the cache of that file, or an empty one; return what must live until the build is over.

    A cache of another GPU or TensorRT is of no use and is replaced. TensorRT-RTX measures nothing: None.

    Raises:
        BuildError: TensorRT takes not even an empty cache.
    """
    if path is None or flavour.is_rtx:
        return None
    for content in (path.read_bytes() if path.is_file() else b"", b""):
        cache = config.create_timing_cache(content)
        if cache is not None and config.set_timing_cache(cache, False):
            watch.step()  # an unusable cache is logged as an error and replaced by an empty one
            return cache
        logger.info("Timing cache '%s' is not of this GPU and TensorRT; starting an empty one", path)
    return watch.check("an empty timing cache was refused", False)


def save_timing_cache(config: Any, path: Path | None, cache: Any) -> None:
    """Write the measured tactics back to the file."""
    if path is not None and cache is not None:
        atomic_write(path, bytes(config.get_timing_cache().serialize()))
