"""The version of this trtkit, as installed."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

__all__ = ["__version__"]

try:
    __version__ = version("trtkit")
except PackageNotFoundError:
    __version__ = "0+source"
