"""The first bytes of a TensorRT plan -> who built it and what for, without TensorRT and without a GPU.

    TensorRT 10 and 11   "ftrt", u32 @4 = 0, bytes 24..27 = major, minor, patch, build
    TensorRT-RTX         "vtrt", u64 @16 = size of the file, bytes 24..27 = major, minor, patch, build,
                         "vtrt" @28, u32 @32 = bit mask of compute capabilities

Source: trtexec's printPlanVersion (TensorRT 10.3, 10.16, 11.1); for RTX, engines of TensorRT-RTX 1.7.1 built for each
compute capability. The layout of TensorRT 8 plans is not documented: their version reads as "".
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from trtkit.errors import BundleError

__all__ = ["PORTABLE", "PlanHeader", "read_plan_header"]

HEADER_BYTES = 64
PORTABLE = "8.0+"
"""Ampere and every later architecture: what TensorRT-RTX builds for when nothing is asked.

NVIDIA documents the default as "Ampere and later"; that it runs on 9.0 and 10.x, which have no bit of their own, is
taken from there and not yet tried.
"""

_PORTABLE_MASK = 0x7E
_RTX_BITS = ("7.5", "8.0", "8.6", "8.9", "12.0", "12.1")


@dataclass(frozen=True)
class PlanHeader:
    """What a plan says about itself.

    Attributes:
        flavour: "tensorrt" or "tensorrt_rtx".
        version: Of the TensorRT that built it, such as "10.3.0.26"; "" where the header does not tell.
        compute_capabilities: Such as ("8.6", "8.9") or ("8.0+",); () where the header does not tell.
    """

    flavour: str
    version: str
    compute_capabilities: tuple[str, ...]


def read_plan_header(data: bytes) -> PlanHeader:
    """Return what the plan `data` (all of its bytes) says about itself.

    Raises:
        BundleError: It is no plan, or it is cut off.
    """
    magic = bytes(data[:4])
    if magic not in (b"ftrt", b"vtrt"):
        raise BundleError(f"This is not a TensorRT plan: it starts with {magic!r} ({len(data)} bytes), not with "
                          "b'ftrt' or b'vtrt'. Build one: trtkit build MODEL.onnx -o MODEL.plan")
    if len(data) < HEADER_BYTES:
        raise BundleError(f"Plan is cut off: {len(data)} bytes, its header alone has {HEADER_BYTES}. "
                          "Copy or build it again")
    return _tensorrt_header(data) if magic == b"ftrt" else _rtx_header(data)


def _tensorrt_header(data: bytes) -> PlanHeader:
    known = data[4:8] == b"\0\0\0\0" and 9 <= data[24] < 100
    return PlanHeader("tensorrt", _version(data) if known else "", ())


def _rtx_header(data: bytes) -> PlanHeader:
    (size,) = struct.unpack_from("<Q", data, 16)
    if size != len(data) or data[28:32] != b"vtrt":
        raise BundleError(f"Plan is damaged: its header speaks of {size} bytes, there are {len(data)}. "
                          "Copy or build it again")
    (mask,) = struct.unpack_from("<I", data, 32)
    if mask == _PORTABLE_MASK:
        return PlanHeader("tensorrt_rtx", _version(data), (PORTABLE,))
    named = tuple(sm for bit, sm in enumerate(_RTX_BITS) if mask >> bit & 1)
    return PlanHeader("tensorrt_rtx", _version(data), named)


def _version(data: bytes) -> str:
    return ".".join(map(str, data[24:28]))
