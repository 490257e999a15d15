"""Jetson Linux release -> the JetPack that it belongs to, and what that brings; one row a release.

Source: NVIDIA's JetPack pages; the first row of a JetPack names its first Jetson Linux, later patches share it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = ["JETPACKS", "JetPack", "find_jetpack", "parse_l4t"]


@dataclass(frozen=True)
class JetPack:
    """One JetPack release.

    Attributes:
        l4t: First Jetson Linux release that belongs to it.
        name: Such as "6.1".
        cuda: CUDA version that comes with it.
        tensorrt: TensorRT version that comes with it.
        has_dla: Whether its TensorRT can use the Deep Learning Accelerator (where the board has one).
    """

    l4t: str
    name: str
    cuda: str
    tensorrt: str
    has_dla: bool


JETPACKS = (
    JetPack("32.6", "4.6", "10.2", "8.0", True),
    JetPack("35.1", "5.0.2", "11.4", "8.4.1", True),
    JetPack("35.2.1", "5.1", "11.4", "8.5.2", True),
    JetPack("36.2", "6.0", "12.2", "8.6.2", True),
    JetPack("36.4.0", "6.1", "12.6", "10.3.0", True),
    JetPack("36.4.3", "6.2", "12.6", "10.3.0", True),
    JetPack("38.2", "7.0", "13.0", "10.13", False),
    JetPack("38.4", "7.1", "13.0", "10.13.3", False),
    JetPack("39.0", "7.2", "13.2", "10.16.2", False),
)


def parse_l4t(release: str) -> str:
    """Return the Jetson Linux version in the text of /etc/nv_tegra_release, such as "36.4.0"; "" when there is none.

    Args:
        release: Begins with "# R36 (release), REVISION: 4.0, ...".
    """
    match = re.search(r"R(\d+)\s*\(release\),\s*REVISION:\s*([\d.]+)", release)
    return f"{match[1]}.{match[2]}" if match else ""


def find_jetpack(l4t: str) -> JetPack | None:
    """Return the JetPack that a Jetson Linux release belongs to, or None when no row has its major number."""
    version = _numbers(l4t)
    rows = [row for row in JETPACKS if _numbers(row.l4t)[0] == version[0] and _numbers(row.l4t) <= version]
    return max(rows, key=lambda row: _numbers(row.l4t), default=None)


def _numbers(version: str) -> tuple[int, ...]:
    """"36.4" and "36.4.0" compare as equal."""
    parts = [int(part) for part in version.split(".")] if version else [0]
    return tuple(parts + [0] * (3 - len(parts)))
