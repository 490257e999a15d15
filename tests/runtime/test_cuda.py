from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from trtkit.device import Gpu
from trtkit.errors import DeviceError, MissingDependencyError
from trtkit.runtime.cuda import PyCuda, probe_gpu

needs_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")


@pytest.fixture
def driver(tmp_path: Path) -> Callable[..., str]:
    """Return a function: C macros -> path of a CUDA driver that behaves so."""

    def compile_driver(*macros: str) -> str:
        library = tmp_path / "libcuda.so.1"
        source = Path(__file__).with_name("fake_driver.c")
        subprocess.run(["cc", "-shared", "-fPIC", *macros, "-o", library, source], check=True)
        return str(library)

    return compile_driver


@needs_compiler
def test_probe_describes_the_first_gpu(driver: Callable[..., str]) -> None:
    assert probe_gpu(driver("-DDEVICES=1")) == Gpu("NVIDIA Test GPU", "8.9", 24 << 30, "13.2")


@needs_compiler
def test_probe_finds_none_when_the_driver_has_no_device(driver: Callable[..., str]) -> None:
    assert probe_gpu(driver("-DDEVICES=0")) is None


@needs_compiler
def test_probe_finds_none_when_the_driver_lacks_a_function(driver: Callable[..., str]) -> None:
    assert probe_gpu(driver("-DDEVICES=1", "-DWITHOUT_VERSION")) is None


def test_probe_finds_none_when_there_is_no_driver() -> None:
    assert probe_gpu("libcuda-absent.so.1") is None


def test_probe_finds_none_when_the_library_is_no_library(tmp_path: Path) -> None:
    (tmp_path / "libcuda.so.1").write_text("no library")
    assert probe_gpu(str(tmp_path / "libcuda.so.1")) is None


@pytest.mark.skipif(importlib.util.find_spec("pycuda") is not None, reason="pycuda is installed")
def test_pycuda_says_how_to_get_it_when_it_is_absent() -> None:
    with pytest.raises(MissingDependencyError, match=r"Running a plan needs pycuda.*trtkit\[trt\]"):
        PyCuda()


class FakeDriver(ModuleType):
    """pycuda.driver as far as PyCuda uses it: a stack of contexts, a stream with a queue, memory that runs out."""

    LIMIT = 1 << 20

    class Error(Exception):
        pass

    def __init__(self) -> None:
        super().__init__("pycuda.driver")
        driver = self
        driver.stack: list[Any] = []
        driver.retained = 0
        driver.live: set[int] = set()
        driver.memory: dict[int, np.ndarray] = {}

        class Context:
            def push(self) -> None:
                driver.stack.append(self)

            @staticmethod
            def pop() -> None:
                driver.stack.pop()

        class Device:
            def __init__(self, number: int) -> None:
                if number:
                    raise driver.Error("cuDeviceGet failed: invalid device ordinal")

            def retain_primary_context(self) -> Context:
                driver.retained += 1
                return Context()

        class Stream:
            handle = 99

            def __init__(self, flags: int) -> None:
                assert flags == 1
                assert driver.stack
                self.queue: list[Callable[[], None]] = []

            def synchronize(self) -> None:
                while self.queue:
                    self.queue.pop(0)()

            def __del__(self) -> None:
                driver.stream_ended_in_context = bool(driver.stack)

        class Allocation:
            def __init__(self, array: np.ndarray) -> None:
                self.array = array
                driver.memory[int(self)] = array

            def __int__(self) -> int:
                return int(self.array.ctypes.data)

            def free(self) -> None:
                assert driver.stack
                del driver.memory[int(self)]

        class Event:
            def record(self, stream: Stream) -> None:
                stream.queue.append(lambda: None)

            def synchronize(self) -> None:
                pass

            def time_since(self, earlier: Event) -> float:
                return 1.5

        def mem_alloc(nbytes: int) -> Allocation:
            if nbytes > driver.LIMIT:
                raise driver.Error("cuMemAlloc failed: out of memory")
            return Allocation(np.zeros(nbytes, np.uint8))

        def memcpy_htod_async(address: int, source: np.ndarray, stream: Stream) -> None:
            stream.queue.append(lambda: np.copyto(driver.memory[address][:source.nbytes], source.view(np.uint8)))

        def memcpy_dtoh_async(target: np.ndarray, address: int, stream: Stream) -> None:
            stream.queue.append(lambda: np.copyto(target.view(np.uint8), driver.memory[address][:target.nbytes]))

        def pagelocked_empty(shape: int, dtype: Any) -> np.ndarray:
            class Pinned(np.ndarray):
                base = Allocation(np.zeros(shape, dtype))

            return np.zeros(shape, dtype).view(Pinned)

        vars(driver).update(init=lambda: None, Context=Context, Device=Device, Stream=Stream, Event=Event,
                            mem_alloc=mem_alloc, memcpy_htod_async=memcpy_htod_async,
                            memcpy_dtoh_async=memcpy_dtoh_async, pagelocked_empty=pagelocked_empty)


@pytest.fixture
def pycuda(monkeypatch: pytest.MonkeyPatch) -> FakeDriver:
    driver = FakeDriver()
    package = ModuleType("pycuda")
    package.driver = driver
    monkeypatch.setitem(sys.modules, "pycuda", package)
    monkeypatch.setitem(sys.modules, "pycuda.driver", driver)
    return driver


def test_pycuda_moves_memory_in_the_primary_context_and_leaves_nothing(pycuda: FakeDriver) -> None:
    cuda = PyCuda()
    assert cuda.stream == 99
    with cuda.active():
        pinned, device = cuda.pinned_memory(16), cuda.device_memory(64)
        pinned.array[:] = range(16)
        start = cuda.record()
        cuda.copy_in(device, pinned.array)
        back = np.zeros(4, np.float32)
        cuda.copy_out(back, device)
        cuda.synchronize()
        assert back.tobytes() == bytes(range(16))
        assert cuda.record().elapsed_ms(start) == 1.5
        pinned.free()
        device.free()
    cuda.close()
    cuda.close()
    assert pycuda.memory == {}
    assert pycuda.stack == []
    assert pycuda.stream_ended_in_context


def test_pycuda_retains_the_primary_context_once(pycuda: FakeDriver) -> None:
    PyCuda().close()
    PyCuda().close()
    assert pycuda.retained == 1


def test_pycuda_errors_become_device_errors_and_pop_the_context(pycuda: FakeDriver) -> None:
    cuda = PyCuda()
    with pytest.raises(DeviceError, match="allocating 2097152 bytes on the GPU: cuMemAlloc failed: out of memory"), \
            cuda.active():
        cuda.device_memory(2 << 20)
    assert pycuda.stack == []
    with pytest.raises(DeviceError, match="opening GPU 3: cuDeviceGet failed"):
        PyCuda(3)


def test_pycuda_refuses_to_work_after_close(pycuda: FakeDriver) -> None:
    cuda = PyCuda()
    cuda.close()
    with pytest.raises(DeviceError, match="closed"), cuda.active():
        pass


@pytest.mark.gpu
def test_pycuda_copies_there_and_back() -> None:
    cuda = PyCuda()
    with cuda.active():
        pinned, device = cuda.pinned_memory(1024), cuda.device_memory(1024)
        pinned.array[:] = np.arange(1024) % 251
        before = cuda.record()
        cuda.copy_in(device, pinned.array)
        back = np.zeros(1024, np.uint8)
        cuda.copy_out(back, device)
        after = cuda.record()
        cuda.synchronize()
        assert (back == pinned.array).all()
        assert after.elapsed_ms(before) >= 0
        pinned.free()
        device.free()
    cuda.close()
    cuda.close()
