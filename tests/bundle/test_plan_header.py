from __future__ import annotations

import struct

import pytest

from trtkit.bundle.plan_header import PlanHeader, read_plan_header
from trtkit.errors import BundleError


def tensorrt_plan(version: tuple[int, int, int, int] = (10, 3, 0, 26), *, word: int = 0, size: int = 100) -> bytes:
    head = b"ftrt" + struct.pack("<I", word) + bytes(16) + bytes(version)
    return head.ljust(size, b"\7")


def rtx_plan(mask: int = 0x7E, *, size: int = 100) -> bytes:
    """Laid out as the engines of TensorRT-RTX 1.7.1 are; tests/build checks the reader on real ones."""
    head = b"vtrt" + bytes(4) + struct.pack("<QQ", 2, size) + bytes((1, 7, 1, 116)) + b"vtrt" + struct.pack("<I", mask)
    return head.ljust(size, b"\7")


@pytest.mark.parametrize(("plan", "header"), [
    pytest.param(tensorrt_plan(), PlanHeader("tensorrt", "10.3.0.26", ()), id="tensorrt-10"),
    pytest.param(tensorrt_plan((11, 4, 0, 106)), PlanHeader("tensorrt", "11.4.0.106", ()), id="tensorrt-11"),
    pytest.param(tensorrt_plan((1, 2, 3, 4)), PlanHeader("tensorrt", "", ()), id="tensorrt-8-version-unknown"),
    pytest.param(tensorrt_plan(word=5), PlanHeader("tensorrt", "", ()), id="layout-unknown"),
    pytest.param(rtx_plan(), PlanHeader("tensorrt_rtx", "1.7.1.116", ("8.0+",)), id="rtx-portable"),
    pytest.param(rtx_plan(0b1), PlanHeader("tensorrt_rtx", "1.7.1.116", ("7.5",)), id="rtx-turing"),
    pytest.param(rtx_plan(0b111110), PlanHeader("tensorrt_rtx", "1.7.1.116", ("8.0", "8.6", "8.9", "12.0", "12.1")),
                 id="rtx-all-by-name"),
])
def test_header_is_read(plan: bytes, header: PlanHeader) -> None:
    assert read_plan_header(plan) == header


@pytest.mark.parametrize(("data", "says"), [
    pytest.param(b"", "not a TensorRT plan", id="empty"),
    pytest.param(b"\x08\x08onnx", "not a TensorRT plan", id="onnx"),
    pytest.param(tensorrt_plan()[:40], "cut off: 40 bytes", id="short-tensorrt"),
    pytest.param(rtx_plan()[:63], "cut off: 63 bytes", id="short-rtx"),
    pytest.param(rtx_plan()[:99], "speaks of 100 bytes, there are 99", id="cut-rtx"),
    pytest.param(rtx_plan() + b"\0", "speaks of 100 bytes, there are 101", id="longer-rtx"),
    pytest.param(rtx_plan()[:28] + b"xxxx" + rtx_plan()[32:], "damaged", id="second-magic"),
])
def test_header_is_refused_when_it_is_none(data: bytes, says: str) -> None:
    with pytest.raises(BundleError, match=says):
        read_plan_header(data)
