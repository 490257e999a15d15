"""CUDA as the runtime needs it: an interface, and pycuda behind it. The only file that knows pycuda.

Always the device's primary context, which TensorRT and torch share; a context of our own would hide memory from them.
`probe_gpu` asks the driver itself and needs no pycuda. Not run on a GPU yet: the pycuda calls follow pycuda 2022.1 to
2026.1, the probe was run against a driver of the tests' own.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from typing import Any, Protocol

import numpy as np

from trtkit._optional import require
from trtkit.device import Gpu
from trtkit.errors import DeviceError
from trtkit.tensors import Array

__all__ = ["Cuda", "CudaEvent", "DeviceMemory", "PinnedMemory", "PyCuda", "probe_gpu"]


class DeviceMemory(Protocol):
    """Bytes on the GPU."""

    address: int
    nbytes: int

    def free(self) -> None:
        """Give them back; the context must be active."""


class PinnedMemory(Protocol):
    """Page-locked bytes on the host, which the GPU copies from and to while the CPU goes on."""

    array: Array

    def free(self) -> None:
        """Give them back; the context must be active, and `array` must not be used any more."""


class CudaEvent(Protocol):
    """A point in the stream's work."""

    def elapsed_ms(self, earlier: CudaEvent) -> float:
        """Return milliseconds of GPU time since `earlier`, after waiting for this event."""


class Cuda(Protocol):
    """One GPU with one stream. Everything but `active` and `close` needs the context active in the calling thread."""

    stream: int
    """The stream's handle, as TensorRT takes it; never the default stream."""

    def active(self) -> AbstractContextManager[None]:
        """Make the primary context current in this thread for the length of a with block."""

    def device_memory(self, nbytes: int) -> DeviceMemory:
        """Allocate on the GPU; DeviceError when memory runs out."""

    def pinned_memory(self, nbytes: int) -> PinnedMemory:
        """Allocate page-locked host memory, an array of uint8 of shape (nbytes,)."""

    def copy_in(self, target: DeviceMemory, source: Array) -> None:
        """Enqueue a copy of the whole contiguous array to the start of `target`."""

    def copy_out(self, target: Array, source: DeviceMemory) -> None:
        """Enqueue a copy that fills the whole contiguous array from the start of `source`."""

    def record(self) -> CudaEvent:
        """Enqueue an event."""

    def synchronize(self) -> None:
        """Wait for everything enqueued."""

    def close(self) -> None:
        """Release the stream; a second call does nothing."""


class PyCuda:
    """`Cuda` by pycuda.

    Args:
        device: Number of the GPU.

    Raises:
        MissingDependencyError: pycuda or the driver's library is absent.
        DeviceError: No usable GPU of that number.
    """

    def __init__(self, device: int = 0) -> None:
        self._driver: Any = require("pycuda.driver", extra="trt", feature="Running a plan")
        with self._told(f"opening GPU {device}"):
            self._context: Any = _primary_context(self._driver, device)
            with self.active():
                self._stream: Any = self._driver.Stream(1)  # 1: does not wait for the default stream
        self.stream = int(self._stream.handle)

    @contextmanager
    def active(self) -> Iterator[None]:
        """Make the primary context current in this thread for the length of a with block."""
        if self._context is None:
            raise DeviceError("This GPU handle is closed. Open a new session")
        self._context.push()
        try:
            yield
        finally:
            # pycuda aborts the process when a thread ends with contexts on its stack
            self._driver.Context.pop()

    def device_memory(self, nbytes: int) -> DeviceMemory:
        """Allocate on the GPU."""
        with self._told(f"allocating {nbytes} bytes on the GPU"):
            return _PyCudaMemory(self._driver.mem_alloc(max(nbytes, 1)), nbytes)

    def pinned_memory(self, nbytes: int) -> PinnedMemory:
        """Allocate page-locked host memory."""
        with self._told(f"allocating {nbytes} bytes of pinned memory"):
            return _PyCudaPinned(self._driver.pagelocked_empty(max(nbytes, 1), np.uint8))

    def copy_in(self, target: DeviceMemory, source: Array) -> None:
        """Enqueue a copy to the GPU."""
        with self._told(f"copying {source.nbytes} bytes to the GPU"):
            self._driver.memcpy_htod_async(target.address, source, self._stream)

    def copy_out(self, target: Array, source: DeviceMemory) -> None:
        """Enqueue a copy from the GPU."""
        with self._told(f"copying {target.nbytes} bytes from the GPU"):
            self._driver.memcpy_dtoh_async(target, source.address, self._stream)

    def record(self) -> CudaEvent:
        """Enqueue an event."""
        with self._told("recording an event"):
            return _PyCudaEvent(self._driver.Event(), self._stream)

    def synchronize(self) -> None:
        """Wait for everything enqueued."""
        with self._told("waiting for the GPU"):
            self._stream.synchronize()

    def close(self) -> None:
        """Release the stream; the context stays, see `_primary_context`."""
        if self._context is None:
            return
        with self.active():
            self._stream = None  # pycuda destroys a stream with its object, which needs the context
        self._context = None

    @contextmanager
    def _told(self, what: str) -> Iterator[None]:
        try:
            yield
        except self._driver.Error as err:  # base of pycuda's errors, itself no RuntimeError
            raise DeviceError(f"CUDA failed while {what}: {err}. "
                              "See what this machine has: trtkit doctor") from err


@cache
def _primary_context(driver: Any, device: int) -> Any:
    """Retain a device's primary context once, for the life of the process, as the CUDA runtime itself does.

    pycuda's detach would release it and leave it on the driver's stack, current and dead (context::detach in cuda.hpp).
    """
    driver.init()
    return driver.Device(device).retain_primary_context()


class _PyCudaMemory:
    def __init__(self, allocation: Any, nbytes: int) -> None:
        self._allocation = allocation
        self.address = int(allocation)
        self.nbytes = nbytes

    def free(self) -> None:
        self._allocation.free()


class _PyCudaPinned:
    def __init__(self, array: Array) -> None:
        self.array = array

    def free(self) -> None:
        allocation: Any = self.array.base
        self.array = np.empty(0, np.uint8)
        allocation.free()


class _PyCudaEvent:
    def __init__(self, event: Any, stream: Any) -> None:
        self._event = event
        event.record(stream)

    def elapsed_ms(self, earlier: CudaEvent) -> float:
        assert isinstance(earlier, _PyCudaEvent)
        self._event.synchronize()
        return float(self._event.time_since(earlier._event))


_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR


def probe_gpu(library: str = "libcuda.so.1") -> Gpu | None:
    """Return the first NVIDIA GPU as the driver describes it, or None where there is none; never raises.

    Args:
        library: Name or path of the driver's library.
    """
    with contextlib.suppress(OSError, AttributeError, _NoAnswer):  # no driver, or one without these functions
        return _ask(ctypes.CDLL(library))
    return None


class _NoAnswer(Exception):
    """A driver call returned an error code."""


def _ask(driver: ctypes.CDLL) -> Gpu | None:
    def call(name: str, *arguments: Any) -> None:
        code = getattr(driver, name)(*arguments)
        if code != 0:
            raise _NoAnswer(name, code)

    def number(name: str, *arguments: Any) -> int:
        value = ctypes.c_int()
        call(name, ctypes.byref(value), *arguments)
        return value.value

    call("cuInit", 0)
    if number("cuDeviceGetCount") < 1:
        return None
    device = number("cuDeviceGet", 0)
    text = ctypes.create_string_buffer(256)
    call("cuDeviceGetName", text, len(text), device)
    memory = ctypes.c_size_t()
    call("cuDeviceTotalMem_v2", ctypes.byref(memory), device)
    major, minor = (number("cuDeviceGetAttribute", attribute, device) for attribute in (_MAJOR, _MINOR))
    version = number("cuDriverGetVersion")
    return Gpu(text.value.decode("utf-8", "replace"), f"{major}.{minor}", memory.value,
               f"{version // 1000}.{version % 1000 // 10}")
