"""trtkit: from a trained PyTorch vision model to the fastest artifact that a board can run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trtkit._version import __version__

if TYPE_CHECKING:
    from trtkit.opening import open

__all__ = ["__version__", "open"]


def __getattr__(name: str) -> Any:
    if name == "open":
        from trtkit.opening import open

        return open
    raise AttributeError(f"module 'trtkit' has no attribute '{name}'")
