"""trtkit: from a trained PyTorch vision model to the fastest artifact that a board can run."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trtkit.opening import open

__all__ = ["__version__", "open"]

try:
    __version__ = version("trtkit")
except PackageNotFoundError:
    __version__ = "0+source"


def __getattr__(name: str) -> Any:
    if name == "open":
        from trtkit.opening import open

        return open
    raise AttributeError(f"module 'trtkit' has no attribute '{name}'")
